//! Once nothing goes wrong any more, everything comes to rest: every state ends, what is wanted runs, and nothing
//! else does.

use super::slots::runtime_limit;
use crate::{
    operator::Program,
    sim::{Act, SECOND, Sim},
    trace::short,
};
use std::collections::BTreeSet;
use zectre_common::{
    id::TaskId,
    state::{DeploymentStatus, NodeStatus, Reason, TaskState},
};
use zectre_scheduler_core::{Cluster, Deployment, Environment, Event, Snapshot, Task, step};

impl Sim {
    /// Looks whether anything still moves.
    pub(crate) fn look_for_rest(&mut self) {
        match self.unrest() {
            None => self.checks.calm_looks += 1,
            Some(why) if self.is_overdue() => return self.fail("liveness", why),
            Some(_) => self.checks.calm_looks = 0,
        }
        if self.checks.calm_looks >= 2 {
            self.check_reread();
            self.checks.at_rest = true;
        }
        self.after(5 * SECOND, Act::Look);
    }

    /// What still moves, or doesn't and should.
    fn unrest(&self) -> Option<String> {
        let open = self.database.operations.iter().find(|row| row.applied == 0);
        if let Some(row) = open {
            return Some(format!("operation {} was never applied", row.operation.id));
        }
        let mut terms = self.schedulers.iter().filter_map(|s| s.term.as_ref());
        let (Some(term), None) = (terms.next(), terms.next()) else {
            return Some("not exactly one scheduler leads".into());
        };
        let Some(cluster) = term.cluster.as_ref() else {
            return Some("the leader reads its state".into());
        };
        if term.flight.is_some() {
            return Some("a commit is under way".into());
        }
        self.restless_nodes(cluster)
            .or_else(|| {
                self.database
                    .environments
                    .values()
                    .find_map(|e| self.restless_environment(cluster, e))
            })
            .or_else(|| {
                self.database
                    .deployments
                    .values()
                    .find_map(|d| self.restless_deployment(d))
            })
            .or_else(|| self.restless_proxies())
            .or_else(|| self.restless_machines())
    }

    fn restless_nodes(&self, cluster: &Cluster) -> Option<String> {
        let rows = self.database.nodes.values();
        let lost = rows.filter(|row| row.status != NodeStatus::Ready).count();
        if lost > 0 || self.database.nodes.len() != self.hosts.len() {
            return Some(format!(
                "{lost} nodes are lost, {} have rows",
                self.database.nodes.len()
            ));
        }
        let odd = cluster.nodes().find(|node| {
            let row = self.database.nodes.get(&node.id);
            node.has_extras || row.is_none_or(|row| row.eligibility != node.eligibility)
        });
        odd.map(|node| format!("node {} is not what its row says, or has extras", node.facts.name))
    }

    fn restless_environment(&self, cluster: &Cluster, environment: &Environment) -> Option<String> {
        let name = short(environment.id.get());
        if environment.target.is_some() || environment.target_weight.is_some() {
            return Some(format!("environment {name} is in a rollout: {environment:?}"));
        }
        let row = self.database.deployments.get(&environment.current?)?;
        if self.operator.is_deleted(environment.id) {
            return Some(format!("environment {name} was deleted and serves"));
        }
        if row.status != DeploymentStatus::Succeeded {
            return Some(format!("{} serves and is {}", short(row.id.get()), row.status));
        }
        if runtime_limit(row).is_some() && !row.asleep && !self.is_long_calm() {
            return Some(format!("{} is to be replaced once more", short(row.id.get())));
        }
        let program = self.operator.program(row.id);
        if !program.works() {
            return Some(format!("{} serves and is broken", short(row.id.get())));
        }
        if row.asleep && row.cold_start_enabled && !matches!(program, Program::Job(_)) {
            return Some(format!("{} sleeps, and requests come", short(row.id.get())));
        }
        let known = cluster.deployment(row.id);
        let told = |d: &Deployment| (d.replicas, d.idle_timeout_secs, d.cold_start_enabled);
        if known.map(told) != Some(told(row)) {
            return Some(format!("the leader has not the row of {}", short(row.id.get())));
        }
        None
    }

    fn restless_deployment(&self, row: &Deployment) -> Option<String> {
        let name = short(row.id.get());
        if !row.status.is_ended() {
            return Some(format!(
                "{name} is {} ({:?}, {:?})",
                row.status, row.reason, row.source
            ));
        }
        let environment = self.database.environments.get(&row.environment_id);
        let serves = environment.is_some_and(|e| e.current == Some(row.id)) && !row.is_job();
        let wanted = if serves && !row.asleep {
            row.full_size() as usize
        } else {
            0
        };
        let live: Vec<_> = self.database.live_tasks_of(row.id).collect();
        let pending = live
            .iter()
            .copied()
            .filter(|task| task.state == TaskState::Pending);
        let (waiting, behind): (Vec<_>, Vec<_>) = pending
            .partition(|task| matches!(task.reason, Some(Reason::NoCapacity | Reason::NoEligibleNode)));
        // A successor that finds no room leaves its predecessor where it is; while something finds none, it isn't even
        // its turn.
        let succeeds = |task: &Task| {
            live.iter()
                .any(|other| other.slot == task.slot && other.id < task.id)
        };
        // The first that finds no room waits for all that are missing.
        let is_short = waiting.iter().any(|task| !succeeds(task));
        let (waiting, ready) = (waiting.len(), self.ready_rows(row.id));
        let has_room = waiting > 0 && self.has_room_for(row);
        let behind = behind
            .into_iter()
            .filter(|task| waiting > 0 && succeeds(task))
            .count();
        // Where servers are replaced when their time is over, some always are on their way.
        let is_relieved =
            self.is_long_calm() && runtime_limit(row).is_some() && wanted > 0 && ready >= wanted;
        let settled = is_relieved
            || (ready == wanted || (is_short && ready < wanted))
                && live.len() == ready + waiting + behind
                && !has_room;
        (!settled).then(|| {
            let states: Vec<String> = live
                .iter()
                .map(|t| format!("{} {} {} {:?}", short(t.id.get()), t.state, t.wanted, t.reason))
                .collect();
            format!("{name} wants {wanted} tasks and has {states:?}, room: {has_room}")
        })
    }

    /// A node that could take one more task of it.
    pub(super) fn has_room_for(&self, row: &Deployment) -> bool {
        let term = self.schedulers.iter().find_map(|s| s.term.as_ref());
        let cluster = term.and_then(|term| term.cluster.as_ref());
        cluster.is_some_and(|cluster| {
            cluster
                .nodes()
                .any(|node| node.takes_tasks() && node.fits(row.spec.resources))
        })
    }

    fn restless_proxies(&self) -> Option<String> {
        let routed: BTreeSet<TaskId> = self.database.routed().map(|task| task.id).collect();
        let behind = self.proxies.iter().position(|proxy| {
            let known: BTreeSet<TaskId> = proxy.table.tasks.keys().copied().collect();
            !proxy.is_up || known != routed || proxy.table.epoch != self.database.routing_epoch
        });
        behind.map(|index| format!("proxy {index} does not route by the rows"))
    }

    fn restless_machines(&self) -> Option<String> {
        let live = self.database.tasks.values().filter(|task| !task.state.is_ended());
        let wanted: BTreeSet<TaskId> = live
            .filter(|task| task.state == TaskState::Running)
            .map(|task| task.id)
            .collect();
        let running: BTreeSet<TaskId> = self
            .hosts
            .iter()
            .flat_map(|host| host.processes.keys().copied())
            .collect();
        // Where servers are replaced when their time is over, some always come and go.
        let is_relieved = |id: &&TaskId| {
            let row = self.database.tasks.get(id);
            let moves = row.filter(|task| matches!(task.state, TaskState::Starting | TaskState::Stopping));
            let deployment = moves.and_then(|task| self.database.deployments.get(&task.deployment_id));
            self.is_long_calm() && deployment.is_some_and(|row| runtime_limit(row).is_some())
        };
        let other: Vec<_> = wanted
            .symmetric_difference(&running)
            .filter(|id| !is_relieved(id))
            .map(|id| short(id.get()))
            .collect();
        (!other.is_empty()).then(|| format!("rows and processes differ in {other:?}"))
    }

    /// Whoever reads the rows at rest, and hears every digest, finds the same state.
    fn check_reread(&mut self) {
        let now = self.clock(0);
        let mut snapshot = Snapshot {
            deployments: self.database.live_deployments(),
            ..Snapshot::default()
        };
        snapshot.environments = self.database.environments_of(&snapshot.deployments);
        self.database.complete(&mut snapshot, self.now_us, now);
        let mut cluster = Cluster::load(crate::settings(), 1, snapshot, now);
        for host in &self.hosts {
            if let Some(node_id) = host.node {
                let tasks = host.held.values().map(|held| held.report.clone()).collect();
                let digest = Event::Heartbeat {
                    node_id,
                    heard_at: now,
                    tasks,
                };
                step(&mut cluster, digest, now);
            }
        }
        step(&mut cluster, Event::Tick, now);
        let told = |task: &Task| {
            (
                task.id,
                task.state,
                task.wanted,
                task.node_id,
                task.port,
                task.routed,
            )
        };
        // When a server's time is nearly over it gets a successor, and one that waits for room is given up in the end: in
        // memory as by the rows, but not at one moment.
        let stays = |task: &&Task| {
            let row = self.database.deployments.get(&task.deployment_id);
            let mut others = self.database.live_tasks_of(task.deployment_id);
            let succeeds = others.any(|other| other.slot == task.slot && other.id < task.id);
            let waits = task.state == TaskState::Pending && succeeds;
            !waits && row.is_none_or(|row| runtime_limit(row).is_none())
        };
        let rows = self.database.tasks.values().filter(|task| !task.state.is_ended());
        let rows: Vec<_> = rows.filter(stays).map(told).collect();
        let read: Vec<_> = cluster.tasks().filter(stays).map(told).collect();
        if rows != read {
            self.fail(
                "reading the rows gives the same state",
                format!("{rows:?} became {read:?}"),
            );
        }
    }
}
