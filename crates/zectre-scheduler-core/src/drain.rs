//! The order of stopping: proxies are told, they acknowledge, the requests under way end, and only then is
//! the task told to stop. A proxy whose lease has ended is not waited for.

use super::{
    Cluster, Command, Task, Unrouted, confirm, settle::STEP_ROWS_MAX, sleep, succession, timer::Timer,
};
use zectre_common::{
    id::{ProxyId, TaskId},
    quantity::DurationMs,
    state::{Reason, TaskState, Wanted},
    time::Time,
};

/// What a proxy said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proxy {
    /// Its id, new at each start.
    pub id: ProxyId,
    /// When it stops counting, by this machine's clock.
    pub lease_expires_at: Time,
    /// The newest epoch it routes by.
    pub applied_epoch: u64,
    /// The newest epoch of whose removed tasks none has a request left.
    pub drained_epoch: u64,
}

impl Proxy {
    /// Of two reports that may have overtaken each other, what is true.
    fn newest(self, other: Self) -> Self {
        Self {
            id: self.id,
            lease_expires_at: self.lease_expires_at.max(other.lease_expires_at),
            applied_epoch: self.applied_epoch.max(other.applied_epoch),
            drained_epoch: self.drained_epoch.max(other.drained_epoch),
        }
    }
}

/// Takes the task out of routing, and stops it as soon as it may be.
pub(super) fn stop_task(
    cluster: &mut Cluster,
    id: TaskId,
    reason: Option<Reason>,
    message: Option<String>,
    now: Time,
) {
    let Some(task) = cluster.tasks.get(&id) else {
        return;
    };
    match (task.state, task.wanted) {
        (TaskState::Pending, _) => {
            cluster.end_task(id, now, |task| {
                (task.state, task.reason, task.message) = (TaskState::Stopped, reason, message);
            });
        }
        (TaskState::Starting | TaskState::Running, Wanted::Run) => {
            let drain_until = now.plus(cluster.settings.drain_timeout);
            let was_routed = cluster.may_get_requests(task);
            cluster.update_task(id, |task| {
                (task.wanted, task.reason, task.message) = (Wanted::Stop, reason, message);
                if was_routed {
                    (task.routed, task.unrouted, task.drain_until) =
                        (false, Unrouted::Awaited, Some(drain_until));
                }
            });
            if cluster.perhaps_named.remove(&id) {
                cluster.reroute();
            }
            cluster.draining.add(id, None);
            stop_when_drained(cluster, id, now);
        }
        // It is on its way already.
        _ => {}
    }
}

/// Sends the stop order if nobody needs the task any more.
pub(super) fn stop_when_drained(cluster: &mut Cluster, id: TaskId, now: Time) {
    let Some(task) = cluster.tasks.get(&id) else {
        return;
    };
    if !may_stop(cluster, task, now) {
        let (ends, unrouted) = (task.drain_until.filter(|at| *at > now), task.unrouted);
        cluster.timers.arm(Timer::Task(id), ends);
        if ends.is_none() {
            let epoch = match unrouted {
                Unrouted::At(epoch) => Some(epoch),
                Unrouted::No | Unrouted::Awaited => None,
            };
            cluster.overdue.add(id, epoch);
        }
        return;
    }
    cluster.draining.remove(id);
    cluster.overdue.remove(id);
    cluster.timers.arm(Timer::Task(id), None);
    cluster.update_task(id, |task| {
        task.state = TaskState::Stopping;
        task.generation += u64::from(!crate::planted::planted!(StaleGeneration));
        // Without a proxy no epoch is waited for.
        if task.unrouted == Unrouted::Awaited {
            task.unrouted = Unrouted::No;
        }
    });
    send_stop(cluster, id, now);
}

/// Sends the stop order (again).
pub(super) fn send_stop(cluster: &mut Cluster, id: TaskId, now: Time) {
    let Some(task) = cluster.tasks.get_mut(&id) else {
        return;
    };
    task.seen_at = Some(now);
    let Some(node_id) = task.node_id else { return };
    let generation = task.generation;
    let grace_secs = cluster
        .deployments
        .get(&task.deployment_id)
        .map_or(0, |d| d.spec.stop_grace_secs);
    let grace = DurationMs::from_secs(u64::from(grace_secs));
    cluster.say(Command::Stop {
        node_id,
        task_id: id,
        generation,
        grace,
    });
}

/// Orders the end of a task whose row is gone; nothing waits for its confirmation.
pub(super) fn send_stop_of_gone(cluster: &mut Cluster, id: TaskId, now: Time) {
    if let Some(task) = cluster.tasks.get_mut(&id) {
        task.generation += 1;
    }
    send_stop(cluster, id, now);
}

/// Invariant 4, in one place.
fn may_stop(cluster: &Cluster, task: &Task, now: Time) -> bool {
    let timed_out = task
        .drain_until
        .is_none_or(|until| until <= now || crate::planted::planted!(SkipDrain));
    match task.unrouted {
        _ if crate::planted::planted!(StopBeforeAcknowledge) => true,
        Unrouted::No => !task.routed,
        Unrouted::Awaited => cluster.proxies.is_empty(),
        Unrouted::At(epoch) => cluster
            .proxies
            .values()
            .all(|proxy| proxy.applied_epoch >= epoch && (proxy.drained_epoch >= epoch || timed_out)),
    }
}

/// Takes back what was only drained: proxies may send it requests again.
pub(super) fn revive(cluster: &mut Cluster, id: TaskId) {
    cluster.draining.remove(id);
    cluster.overdue.remove(id);
    cluster.revived.insert(id);
    cluster.update_task(id, |task| {
        (task.wanted, task.reason, task.message) = (Wanted::Run, None, None);
        (task.routed, task.unrouted, task.drain_until) = (true, Unrouted::No, None);
    });
    succession::arm_relief(cluster, id);
    if crate::planted::planted!(RevivedToldEarly)
        && let Some(deployment_id) = cluster.tasks.get(&id).map(|task| task.deployment_id)
    {
        cluster.say(Command::Ready(deployment_id));
    }
}

pub(super) fn proxy_report(cluster: &mut Cluster, proxy: Proxy, now: Time) {
    // It waited for too long and says nothing any more: a newer one may stand behind it. Who is silent is noticed
    // by the timer.
    if proxy.lease_expires_at <= now {
        return;
    }
    let proxy = cluster
        .proxies
        .get(&proxy.id)
        .map_or(proxy, |known| known.newest(proxy));
    let silent_at = (!crate::planted::planted!(DeadProxyAwaited)).then_some(proxy.lease_expires_at);
    cluster.timers.arm(Timer::Proxy(proxy.id), silent_at);
    let before = cluster.proxies.insert(proxy.id, proxy);
    let moved = before.is_none_or(|old| {
        (old.applied_epoch, old.drained_epoch) != (proxy.applied_epoch, proxy.drained_epoch)
    });
    if moved {
        check_all(cluster, now);
    }
}

pub(super) fn proxy_gone(cluster: &mut Cluster, id: ProxyId, now: Time) {
    cluster.timers.arm(Timer::Proxy(id), None);
    if cluster.proxies.remove(&id).is_some() {
        check_all(cluster, now);
    }
}

pub(super) fn epoch_raised(cluster: &mut Cluster, epoch: u64, now: Time) {
    cluster.note_raised(epoch);
    for id in cluster.draining.committed(epoch) {
        // The database has it already, by the same commit.
        if let Some(task) = cluster
            .tasks
            .get_mut(&id)
            .filter(|task| task.unrouted == Unrouted::Awaited && !crate::planted::planted!(EpochForgotten))
        {
            task.unrouted = Unrouted::At(epoch);
        }
    }
    for id in std::mem::take(&mut cluster.revived) {
        if let Some(deployment_id) = cluster.tasks.get(&id).map(|task| task.deployment_id) {
            sleep::takes_requests(cluster, deployment_id);
        }
    }
    cluster.overdue.committed(epoch);
    cluster.stranded.committed(epoch);
    cluster.confirming.committed(epoch);
    cluster.displaced.committed(epoch);
    check_all(cluster, now);
}

/// Proxies moved on, or went away: what waited for them goes on.
pub(super) fn check_all(cluster: &mut Cluster, now: Time) {
    confirm::check_all(cluster, now);
    sleep::tell_displaced(cluster);
    let applied = cluster.applied_epoch();
    for node in cluster.stranded.up_to(applied) {
        cluster.stranded.remove(node);
    }
    stop_all_drained(cluster, now);
}

/// Stops the tasks that nobody needs any more; what is too much for one step goes on in the next one, at once.
pub(super) fn stop_all_drained(cluster: &mut Cluster, now: Time) {
    let (applied, drained) = (cluster.applied_epoch(), cluster.drained_epoch());
    let mut free = cluster.draining.up_to(drained);
    free.extend(cluster.overdue.up_to(applied));
    for id in free {
        if cluster.rows_to_save() >= STEP_ROWS_MAX {
            cluster.timers.arm(Timer::Rest, Some(now));
            return;
        }
        stop_when_drained(cluster, id, now);
    }
}

impl Cluster {
    /// The newest epoch that every live proxy routes by; `None` when there is no proxy to ask.
    pub(super) fn applied_epoch(&self) -> Option<u64> {
        if crate::planted::planted!(OneAcknowledgementIsEnough) {
            return self.proxies.values().map(|proxy| proxy.applied_epoch).max();
        }
        self.proxies.values().map(|proxy| proxy.applied_epoch).min()
    }

    /// The newest epoch of whose removed tasks no live proxy has a request left.
    fn drained_epoch(&self) -> Option<u64> {
        if crate::planted::planted!(SkipDrain) {
            return self.applied_epoch();
        }
        let epochs = self.proxies.values();
        epochs
            .map(|proxy| proxy.drained_epoch.min(proxy.applied_epoch))
            .min()
    }
}
