//! Everything the agent holds of its tasks: what it was told, and what it has to tell.

use super::Home;
use crate::{
    core::{order::Known, tail},
    log::{Follower, Live},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, watch};
use zectre_common::{
    id::TaskId,
    state::TaskState,
    time::Time,
    wire::{
        agent::TaskReport,
        task::{Phases, TaskUsage},
    },
};
use zectre_service::metrics::Registry;

/// How many forgotten tasks are remembered, so that a late order can't bring one back.
const FORGOTTEN_MAX: usize = 4_096;

/// That a task stops, and how long it has between SIGTERM and SIGKILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The grace of the order.
    Within(Duration),
    /// The grace of its own spec: the agent stops.
    OwnGrace,
}

/// A task that was still running when its time was over, because the agent stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Killed {
    /// Which.
    pub task_id: TaskId,
    /// Of this application,
    pub application: String,
    /// in this namespace,
    pub namespace: String,
    /// and this environment.
    pub environment: String,
    /// Seconds after SIGTERM.
    pub after_secs: u64,
}

/// One task.
#[derive(Debug)]
struct Held {
    report: TaskReport,
    /// Set once it is to stop.
    stop: watch::Sender<Option<Wish>>,
    home: Home,
    follower: Option<Follower>,
    /// Whose turn it is to keep the report.
    keeping: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct Inner {
    held: HashMap<TaskId, Held>,
    forgotten: HashMap<TaskId, u64>,
    /// Their records can't be read; what runs of them is spared.
    left_alone: BTreeSet<TaskId>,
    forgotten_order: VecDeque<TaskId>,
    news: BTreeSet<TaskId>,
    /// Did not go in time.
    killed: Vec<Killed>,
}

/// The states a task can be in on a node.
const STATES: [TaskState; 5] = [
    TaskState::Starting,
    TaskState::Running,
    TaskState::Stopping,
    TaskState::Stopped,
    TaskState::Failed,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

/// All tasks.
#[derive(Debug)]
pub(crate) struct Board {
    inner: Mutex<Inner>,
    changed: Notify,
    /// How many have not ended.
    live: watch::Sender<usize>,
    /// The agent stops: when the time of all its tasks is over.
    closing: watch::Sender<Option<Instant>>,
    gauge: Family<StateLabel, Gauge>,
}

/// A fresh report.
pub(super) fn report(task_id: TaskId, generation: u64, state: TaskState) -> TaskReport {
    TaskReport {
        task_id,
        generation,
        state,
        healthy: false,
        port: None,
        reason: None,
        message: None,
        exit_code: None,
        signal: None,
        last_probe: None,
        log_tail: Vec::new(),
        phases: Phases::default(),
        usage: None,
        since: Time::now(),
    }
}

impl Board {
    /// Holds nothing yet.
    pub(crate) fn new(metrics: &Registry) -> Self {
        let gauge = metrics.register("agent_tasks", "Tasks held, by state", Family::default());
        Self {
            inner: Mutex::default(),
            changed: Notify::new(),
            live: watch::Sender::new(0),
            closing: watch::Sender::new(None),
            gauge,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a task, for the decision about an order.
    pub(crate) fn known(&self, task: TaskId) -> Known {
        let inner = self.inner();
        match (inner.held.get(&task), inner.forgotten.get(&task)) {
            (Some(held), _) if held.report.state.is_ended() => Known::Ended(held.report.generation),
            (Some(held), _) => Known::Live(held.report.generation),
            (None, Some(generation)) => Known::Forgotten(*generation),
            (None, None) => Known::Nothing,
        }
    }

    /// Takes a task up and tells of it, and gives what tells when it is to stop.
    pub(crate) fn hold(
        &self,
        report: TaskReport,
        home: Home,
        follower: Option<Follower>,
    ) -> watch::Receiver<Option<Wish>> {
        let id = report.task_id;
        let stop_watch = self.take_up(report, home, follower);
        self.inner().news.insert(id);
        self.changed.notify_one();
        stop_watch
    }

    /// The same without telling: that an order to start was taken on is known by the answer to it, and the news that somebody
    /// waits for, a few milliseconds later, would have to wait for the answer to this.
    pub(crate) fn take_up(
        &self,
        report: TaskReport,
        home: Home,
        follower: Option<Follower>,
    ) -> watch::Receiver<Option<Wish>> {
        let id = report.task_id;
        let mut inner = self.inner();
        let (stop, stop_watch) = watch::channel(self.is_closed().then_some(Wish::OwnGrace));
        // Its records are written anew.
        inner.left_alone.remove(&id);
        inner.held.insert(
            id,
            Held {
                report,
                stop,
                home,
                follower,
                keeping: Arc::default(),
            },
        );
        self.count(&inner);
        stop_watch
    }

    /// Spares what runs of a task whose records can't be read.
    pub(crate) fn leave_alone(&self, task: TaskId) {
        self.inner().left_alone.insert(task);
    }

    /// Whether its records could not be read.
    pub(crate) fn is_left_alone(&self, task: TaskId) -> bool {
        self.inner().left_alone.contains(&task)
    }

    /// Raises the generation of a task, and tells so.
    pub(crate) fn acknowledge(&self, task: TaskId, generation: u64) {
        self.update(task, |report| {
            report.generation = report.generation.max(generation);
        });
    }

    /// Asks a task to stop. The first grace counts.
    pub(crate) fn stop(&self, task: TaskId, grace: Duration) {
        if let Some(held) = self.inner().held.get(&task) {
            held.stop.send_if_modified(|wish| {
                wish.is_none()
                    .then(|| *wish = Some(Wish::Within(grace)))
                    .is_some()
            });
        }
    }

    /// Asks a task to stop because the order of this generation says so. The wish is on disk before the order is
    /// acknowledged: a crash in between must not leave a task that runs on although nobody will ask again.
    pub(crate) fn stop_as_ordered(&self, task: TaskId, generation: u64, grace: Duration) {
        let home = self
            .inner()
            .held
            .get(&task)
            .filter(|held| held.follower.is_some())
            .map(|held| held.home.clone());
        if let Some(home) = home
            && let Err(error) = home.keep_stop(grace)
        {
            tracing::warn!(%task, %error, "the wish to stop could not be kept");
        }
        self.acknowledge(task, generation);
        self.stop(task, grace);
    }

    /// Takes up a sample of what a task uses. That is no news: the next heartbeat carries it.
    pub(crate) fn sample(&self, task: TaskId, usage: TaskUsage) {
        if let Some(held) = self.inner().held.get_mut(&task) {
            held.report.usage = Some(usage);
        }
    }

    /// Takes up how long the parts of a start took. No news either: the task is about to be ready, and the news of that
    /// would wait for the answer to this.
    pub(crate) fn time(&self, task: TaskId, phases: Phases) {
        if let Some(held) = self.inner().held.get_mut(&task) {
            held.report.phases = phases;
        }
    }

    /// Changes a task's report: keeps it, and tells it. What changes nothing (most probes) is no news.
    pub(crate) fn update(&self, task: TaskId, change: impl FnOnce(&mut TaskReport)) {
        {
            let mut inner = self.inner();
            let Some(held) = inner.held.get_mut(&task) else {
                return;
            };
            let before = held.report.clone();
            change(&mut held.report);
            if held.report == before {
                return;
            }
            if held.report.state != before.state {
                held.report.since = Time::now();
            }
            inner.news.insert(task);
            self.count(&inner);
        }
        self.keep(task);
        self.changed.notify_one();
    }

    /// Keeps a task's report as it is by now. One at a time: orders and the task's own life change it at the same moment, and
    /// an older report must not be the last to be written, nor two of them be torn into one that nobody can read.
    fn keep(&self, task: TaskId) {
        let (keeping, home) = match self.inner().held.get(&task) {
            Some(held) if held.follower.is_some() => (held.keeping.clone(), held.home.clone()),
            // A task that never was on this node has no directory.
            _ => return,
        };
        let _turn = keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(report) = self.inner().held.get(&task).map(|held| held.report.clone()) else {
            return;
        };
        if let Err(error) = home.keep_report(&report)
            // A heartbeat may have told of its end already, and its directory is gone with it.
            && self.inner().held.contains_key(&task)
        {
            tracing::warn!(%task, %error, "the report could not be kept");
        }
    }

    /// Drops a task that has ended; gives what has to be cleared away.
    pub(crate) fn forget(&self, task: TaskId, generation: u64) -> Option<(Home, Option<Follower>)> {
        let mut inner = self.inner();
        let held = inner.held.remove(&task)?;
        inner.news.remove(&task);
        self.count(&inner);
        inner
            .forgotten
            .insert(task, held.report.generation.max(generation));
        inner.forgotten_order.push_back(task);
        if inner.forgotten_order.len() > FORGOTTEN_MAX
            && let Some(oldest) = inner.forgotten_order.pop_front()
        {
            inner.forgotten.remove(&oldest);
        }
        Some((held.home, held.follower))
    }

    /// Everything, for the heartbeat.
    pub(crate) fn digest(&self) -> Vec<TaskReport> {
        let mut reports: Vec<_> = self
            .inner()
            .held
            .values()
            .map(|held| held.report.clone())
            .collect();
        reports.sort_by_key(|report| report.task_id);
        tail::lighten(&mut reports);
        reports
    }

    /// Waits for news and takes at most `max` of them.
    pub(crate) async fn news(&self, max: usize) -> Vec<TaskReport> {
        loop {
            let (reports, more) = {
                let mut inner = self.inner();
                let ids: Vec<TaskId> = inner.news.iter().take(max).copied().collect();
                inner.news.retain(|id| !ids.contains(id));
                let reports: Vec<_> = ids
                    .iter()
                    .filter_map(|id| inner.held.get(id))
                    .map(|held| held.report.clone())
                    .collect();
                (reports, !inner.news.is_empty())
            };
            if more {
                self.changed.notify_one();
            }
            if !reports.is_empty() {
                return reports;
            }
            self.changed.notified().await;
        }
    }

    /// Puts news back that could not be told.
    pub(crate) fn untold(&self, reports: &[TaskReport]) {
        self.inner()
            .news
            .extend(reports.iter().map(|report| report.task_id));
        self.changed.notify_one();
    }

    /// What a task that has not ended has on this node.
    pub(super) fn belongings(&self, task: TaskId) -> Option<(Home, Option<Follower>)> {
        let inner = self.inner();
        let held = inner.held.get(&task)?;
        let is_live = !held.report.state.is_ended();
        is_live.then(|| (held.home.clone(), held.follower.clone()))
    }

    /// The latest lines of a task; `None` when it isn't held, or never was here.
    pub(crate) fn live(&self, task: TaskId) -> Option<Arc<Live>> {
        self.inner()
            .held
            .get(&task)?
            .follower
            .as_ref()
            .map(|follower| follower.live.clone())
    }

    /// Waits until every task has ended.
    pub(crate) async fn ended(&self) {
        let mut live = self.live.subscribe();
        // The board holds the sender, so this ends only with the wait.
        let _ = live.wait_for(|live| *live == 0).await;
    }

    /// Whether no task is started any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closing.borrow().is_some()
    }

    /// Starts no task any more (the scheduler replaces what stops, and would place it here again), and asks every one
    /// to stop within its own grace, and all of them by `deadline`: also those that were stopping already.
    pub(crate) fn stop_all(&self, deadline: Instant) {
        let inner = self.inner();
        self.closing.send_replace(Some(deadline));
        for held in inner.held.values() {
            held.stop
                .send_if_modified(|wish| wish.is_none().then(|| *wish = Some(Wish::OwnGrace)).is_some());
        }
    }

    /// Waits until the time of all tasks is over, because the agent stops.
    pub(crate) async fn time_is_over(&self) {
        let mut closing = self.closing.subscribe();
        // The board holds the sender, so this ends only with the wait.
        let deadline = closing
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|deadline| *deadline);
        if let Some(deadline) = deadline {
            tokio::time::sleep_until(deadline.into()).await;
        }
    }

    /// Notes that a task did not go in time.
    pub(crate) fn note_killed(&self, killed: Killed) {
        self.inner().killed.push(killed);
    }

    /// Those that did not go in time.
    pub(crate) fn killed(&self) -> Vec<Killed> {
        self.inner().killed.clone()
    }

    /// Follows every change of a state.
    fn count(&self, inner: &Inner) {
        let counts = STATES.map(|state| {
            inner
                .held
                .values()
                .filter(|held| held.report.state == state)
                .count()
        });
        for (state, count) in STATES.iter().zip(counts) {
            self.gauge
                .get_or_create(&StateLabel {
                    state: state.as_str(),
                })
                .set(count as i64);
        }
        let live = inner
            .held
            .values()
            .filter(|held| !held.report.state.is_ended())
            .count();
        self.live
            .send_if_modified(|known| std::mem::replace(known, live) != live);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn news_are_told_once_and_put_back_when_they_are_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let board = Board::new(&Registry::new());
        let ids = [TaskId::new(), TaskId::new(), TaskId::new()];
        for id in ids {
            board.hold(report(id, 1, TaskState::Starting), Home::of(dir.path(), id), None);
        }
        let told = board.news(2).await;
        assert_eq!(told.len(), 2);
        board.untold(&told);
        let (mut all, rest) = (board.news(2).await, board.news(2).await);
        all.extend(rest);
        assert_eq!(all.iter().map(|report| report.task_id).collect::<Vec<_>>(), ids);
        let none = tokio::time::timeout(Duration::ZERO, board.news(2)).await;
        assert!(none.is_err(), "nothing is new");
    }

    #[test]
    fn a_forgotten_task_is_remembered_by_its_generation() {
        let dir = tempfile::tempdir().expect("a directory");
        let (board, id) = (Board::new(&Registry::new()), TaskId::new());
        assert_eq!(board.known(id), Known::Nothing);
        board.hold(report(id, 3, TaskState::Stopped), Home::of(dir.path(), id), None);
        assert_eq!(board.known(id), Known::Ended(3));
        assert!(board.forget(id, 4).is_some());
        assert_eq!(board.known(id), Known::Forgotten(4));
    }
    #[test]
    fn what_is_kept_is_the_newest_report_and_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let (board, id) = (Board::new(&Registry::new()), TaskId::new());
        let home = Home::of(dir.path(), id);
        std::fs::create_dir(home.dir()).expect("made");
        board.hold(
            report(id, 1, TaskState::Running),
            home.clone(),
            Some(Follower::idle()),
        );
        for round in 1..200_u64 {
            std::thread::scope(|scope| {
                scope.spawn(|| board.acknowledge(id, round + 1));
                scope.spawn(|| {
                    board.update(id, |report| {
                        report.message = Some("x".repeat((round % 7 * 100) as usize));
                    });
                });
            });
            let kept = home.report().expect("whole").expect("kept");
            assert_eq!(kept, board.digest()[0], "round {round}");
        }
    }
}
