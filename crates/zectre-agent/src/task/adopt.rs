//! Takes up, at the agent's start, what an earlier agent left: running tasks go on under this one, ended ones are
//! concluded, and what belongs to nobody is killed.

use super::{
    Home,
    board::Wish,
    container, custody,
    home::Kept,
    life::{Begin, Held, Life},
    native,
    supervision::launch,
};
use crate::{
    core::{
        adopt::{Remains, Verdict, verdict},
        exit::{Cause, Exit},
    },
    error::Error,
    host::Host,
    log::Follower,
    shim::{Ended, Started},
};
use std::{collections::HashMap, io, sync::Arc, time::Duration};
use tokio::sync::watch;
use zectre_common::{
    id::TaskId,
    spec::ProcessType,
    state::{Reason, TaskState},
    wire::agent::TaskReport,
};
use zectre_container::{ContainerState, Found};

/// The pause before an engine that failed is asked again.
const ENGINE_PAUSE: Duration = Duration::from_secs(1);

/// All that is left of one task.
struct Relic {
    task: TaskId,
    home: Home,
    kept: Kept,
    report: TaskReport,
    started: Option<Started>,
    ended: Option<Ended>,
    /// Its control group says that the kernel killed some of it for want of memory.
    oom_killed: bool,
    /// It was to stop, with this grace.
    stop: Option<Duration>,
    container: Option<Found>,
}

/// Takes up everything.
pub(crate) async fn adopt_all(host: &Arc<Host>) -> Result<(), Error> {
    let failed = |source| Error::DataDir {
        path: host.tasks_dir.clone(),
        source,
    };
    host.places.clear();
    let mut containers = containers(host).await;
    let mut spared = Spared::Groups(Vec::new());
    for task in Home::list(&host.tasks_dir).map_err(failed)? {
        let home = Home::of(&host.tasks_dir, task);
        let container = containers.as_mut().and_then(|found| found.remove(&task));
        match relic(host, task, home.clone(), container) {
            Ok(Some(relic)) if containers.is_none() && relic.waits_for_engine(host) => {
                postpone(host, relic);
            }
            Ok(Some(relic)) => spared.add(adopt(host, relic).await),
            Ok(None) => clear(task, &home),
            // Killing what can't be understood could kill a healthy task; leaving it costs a directory.
            Err(error) => {
                tracing::error!(%task, %error, "the records of a task can't be read; what runs of it is left alone");
                if !custody::take_up(host, task, &home) {
                    host.board.leave_alone(task);
                }
                match home.started() {
                    Ok(started) => spared.add(started.as_ref().and_then(group_name)),
                    Err(_) => spared = Spared::All,
                }
            }
        }
    }
    match spared {
        Spared::Groups(groups) => native::kill_strays(host, &groups).await,
        Spared::All => tracing::error!(
            "processes that belong to no task are not looked for: one of them may be of a task whose records can't be read"
        ),
    }
    if let Some(engine) = host.engine.current() {
        for found in containers.into_iter().flatten().map(|(_, found)| found) {
            tracing::warn!(task = %found.task_id, "removing a container that belongs to no task");
            if let Err(error) = engine.remove(&found.container_id).await {
                tracing::warn!(task = %found.task_id, %error, "it stays until the engine comes again");
            }
        }
    }
    Ok(())
}

/// What stays of a directory keeps nobody from working.
fn clear(task: TaskId, home: &Home) {
    if let Err(error) = home.remove() {
        tracing::warn!(%task, %error, "the directory of a task could not be removed");
    }
}

/// The control groups that nothing is killed in.
enum Spared {
    Groups(Vec<String>),
    /// Nobody knows which one it is.
    All,
}

impl Spared {
    fn add(&mut self, group: Option<String>) {
        if let Self::Groups(groups) = self {
            groups.extend(group);
        }
    }
}

/// Our containers; `None` when the engine isn't there to say.
async fn containers(host: &Host) -> Option<HashMap<TaskId, Found>> {
    let engine = host.engine.current()?;
    match engine.list_ours().await {
        Ok(found) => {
            let settled = found.into_iter().map(|found| container::settled(&engine, found));
            let settled = futures_util::future::join_all(settled).await;
            Some(settled.into_iter().map(|found| (found.task_id, found)).collect())
        }
        Err(error) => {
            tracing::warn!(%error, "containers are taken up once the engine answers");
            None
        }
    }
}

/// Nobody knows how a container is while its engine is away: it is reported as it was, and taken up when the engine
/// is there again.
fn postpone(host: &Arc<Host>, relic: Relic) {
    tracing::info!(task = %relic.task, "found a task; it waits for the container engine");
    let (task, later) = (relic.task, host.clone());
    let (follower, stop) = hold(host, &relic);
    let image = relic
        .kept
        .order
        .image
        .as_deref()
        .map(|image| host.images.hold(image));
    let take_up = async move {
        let found = loop {
            let engine = later.engine.there().await;
            match engine.list_ours().await {
                Ok(found) => match found.into_iter().find(|found| found.task_id == task) {
                    Some(found) => break Some(container::settled(&engine, found).await),
                    None => break None,
                },
                Err(error) => tracing::warn!(%task, %error, "asking the engine again"),
            }
            tokio::time::sleep(ENGINE_PAUSE).await;
        };
        let relic = Relic {
            container: found,
            ..relic
        };
        let verdict = verdict(relic.remains());
        tracing::info!(%task, ?verdict, "found a container");
        if verdict != Verdict::Watch {
            remove_container(&later, &relic).await;
        }
        let (life, begin) = rest_of_life(&later, relic, verdict, follower, stop);
        // It is held by the life from here on.
        drop(image);
        life.live(begin).await;
    };
    launch(host, take_up, task);
}

/// Puts it on the board: also one whose output can't be followed now, for it serves all the same.
fn hold(host: &Host, relic: &Relic) -> (Follower, watch::Receiver<Option<Wish>>) {
    let follower = host.follow_on(relic.task, &relic.home);
    let stop = host
        .board
        .hold(relic.report.clone(), relic.home.clone(), Some(follower.clone()));
    (follower, stop)
}

/// The rest of its life. What it needs on this node is held when this returns.
fn rest_of_life(
    host: &Arc<Host>,
    relic: Relic,
    verdict: Verdict,
    follower: Follower,
    stop: watch::Receiver<Option<Wish>>,
) -> (Life, Begin) {
    let (was_stopping, overran) = (relic.stop.is_some(), relic.overran());
    if let Some(grace) = relic.stop {
        host.board.stop(relic.task, grace);
    }
    let (task, home, order) = (relic.task, relic.home.clone(), relic.kept.order.clone());
    let begin = begin(host, relic, verdict, was_stopping);
    let life = Life {
        host: host.clone(),
        task,
        order,
        home,
        follower,
        stop,
        overran,
    };
    (life, begin)
}

/// `None` when the order never was on disk: then nothing was started either.
fn relic(host: &Host, task: TaskId, home: Home, container: Option<Found>) -> io::Result<Option<Relic>> {
    let Some(kept) = home.kept()? else {
        return Ok(None);
    };
    let Some(report) = home.report()?.or_else(|| kept.first_report(task)) else {
        return Ok(None);
    };
    let (started, ended, stop) = (home.started()?, home.ended()?, home.stop()?);
    // Asked now: the group goes with the rest of what is killed.
    let oom_killed = started
        .as_ref()
        .is_some_and(|started| native::oom_killed(host, started));
    Ok(Some(Relic {
        task,
        home,
        kept,
        report,
        started,
        ended,
        oom_killed,
        stop,
        container,
    }))
}

impl Relic {
    fn remains(&self) -> Remains {
        let container = self.container.as_ref().map(|found| found.state);
        let in_engine = container.is_some_and(|state| state != ContainerState::Created);
        let started = self.started.as_ref();
        Remains {
            end_kept: self.report.state.is_ended(),
            was_started: started.is_some() || in_engine,
            // The engine supervises a container, and knows how it ended.
            supervisor_alive: started.is_some_and(Started::is_supervised) || in_engine,
            exit_recorded: self.ended.is_some(),
            program_alive: started.is_some_and(Started::runs) || container == Some(ContainerState::Running),
        }
    }

    /// Whether only the engine can tell how it is.
    fn waits_for_engine(&self, host: &Host) -> bool {
        let runs = !self.report.state.is_ended();
        runs && self.kept.order.process_type == ProcessType::Docker && host.engine.is_enabled()
    }

    /// Whether it was told to end because its time was over.
    fn overran(&self) -> bool {
        (self.report.state, self.report.reason) == (TaskState::Stopping, Some(Reason::MaxRuntime))
    }

    fn was_ready(&self) -> bool {
        self.report.port.is_some() || self.report.state == TaskState::Running
    }
}

/// Gives the name of the control group that it goes on in.
async fn adopt(host: &Arc<Host>, relic: Relic) -> Option<String> {
    let verdict = verdict(relic.remains());
    tracing::info!(task = %relic.task, ?verdict, "found a task");
    match verdict {
        Verdict::Drop => {
            remove_container(host, &relic).await;
            clear(relic.task, &relic.home);
            return None;
        }
        Verdict::Kill => {
            if let Some(started) = &relic.started {
                native::kill_remains(host, started).await;
            }
        }
        Verdict::ReportEnd | Verdict::Watch | Verdict::Conclude | Verdict::ConcludeUnseen => {}
    }
    let (follower, stop) = hold(host, &relic);
    if verdict == Verdict::ReportEnd {
        // Its lines may still be on their way; the report waits to be forgotten.
        follower.finish(None, Duration::ZERO).await;
        remove_container(host, &relic).await;
        return None;
    }
    let group = if verdict == Verdict::Watch {
        relic.started.as_ref().and_then(group_name)
    } else {
        None
    };
    let task = relic.task;
    let (life, begin) = rest_of_life(host, relic, verdict, follower, stop);
    launch(host, life.live(begin), task);
    group
}

fn begin(host: &Arc<Host>, relic: Relic, verdict: Verdict, was_stopping: bool) -> Begin {
    let was_ready = relic.was_ready();
    let cause = match verdict {
        _ if was_stopping => Cause::Ordered,
        Verdict::Kill | Verdict::ConcludeUnseen => Cause::Lost,
        _ => Cause::Itself { was_ready },
    };
    if verdict != Verdict::Watch {
        let oom_killed = relic.oom_killed || relic.ended.as_ref().is_some_and(|ended| ended.oom_killed);
        let exit = relic.ended.map_or_else(Exit::default, |ended| Exit {
            code: ended.code,
            signal: ended.signal,
        });
        return Begin::Ended {
            cause,
            exit,
            oom_killed,
        };
    }
    let order = &relic.kept.order;
    let engine = host.engine.current();
    let workload = match (order.process_type, relic.started, relic.container, engine) {
        (ProcessType::Docker, _, Some(found), Some(engine)) => {
            container::adopt(host, &engine, &relic.home, found.container_id)
        }
        (_, Some(started), _, _) => native::adopt(host, &relic.home, started),
        // Watched means that one of the two was found.
        _ => {
            return Begin::Ended {
                cause,
                exit: Exit::default(),
                oom_killed: false,
            };
        }
    };
    let held = match (&order.artifact, &order.image) {
        (Some(artifact), _) => host
            .cache
            .lease_of(artifact)
            .map_or(Held::Nothing, Held::Artifact),
        (None, Some(image)) => Held::Image(host.images.hold(image)),
        (None, None) => Held::Nothing,
    };
    Begin::Running {
        workload: Box::new(workload),
        held,
        was_ready,
        accepted_at: relic.kept.accepted_at,
    }
}

/// A container that has no task to run for.
async fn remove_container(host: &Host, relic: &Relic) {
    if let (Some(engine), Some(found)) = (host.engine.current(), &relic.container)
        && let Err(error) = engine.remove(&found.container_id).await
    {
        tracing::warn!(task = %relic.task, %error, "a container stays until the engine comes again");
    }
}

fn group_name(started: &Started) -> Option<String> {
    let dir = started.groups.first()?;
    dir.file_name().map(|name| name.to_string_lossy().into_owned())
}
