//! Takes up, at the agent's start, what an earlier agent left: running tasks go on under this one, ended ones are
//! concluded, and what belongs to nobody is killed.

use super::{
    Home, container,
    home::Kept,
    life::{Begin, Held, Life, launch},
    native,
};
use crate::{
    core::{
        adopt::{Remains, Verdict, verdict},
        exit::Exit,
    },
    error::Error,
    host::Host,
    log::Follower,
    shim::{Ended, Started},
};
use std::{collections::HashMap, io, sync::Arc, time::Duration};
use tokio::sync::watch;
use zectre_common::{id::TaskId, spec::ProcessType, state::TaskState, wire::agent::TaskReport};
use zectre_container::Found;

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
    let mut containers = containers(host).await;
    let mut groups = Vec::new();
    for task in Home::list(&host.tasks_dir).map_err(failed)? {
        let home = Home::of(&host.tasks_dir, task);
        let container = containers.as_mut().and_then(|found| found.remove(&task));
        match relic(task, home.clone(), container) {
            Ok(Some(relic)) if containers.is_none() && relic.waits_for_engine(host) => {
                postpone(host, relic);
            }
            Ok(Some(relic)) => groups.extend(adopt(host, relic).await),
            Ok(None) => home.remove().map_err(failed)?,
            // Killing what can't be understood could kill a healthy task; leaving it costs a directory.
            Err(error) => {
                tracing::error!(%task, %error, "the records of a task can't be read; it is left alone");
            }
        }
    }
    native::kill_strays(host, &groups).await;
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

/// Our containers; `None` when the engine isn't there to say.
async fn containers(host: &Host) -> Option<HashMap<TaskId, Found>> {
    let found = host.engine.current()?.list_ours().await;
    match found {
        Ok(found) => Some(found.into_iter().map(|found| (found.task_id, found)).collect()),
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
    let Some((follower, stop)) = hold(host, &relic) else {
        return;
    };
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
                Ok(found) => break found.into_iter().find(|found| found.task_id == task),
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
        let (life, begin) = rest_of_life(&later, relic, verdict, follower, stop);
        // It is held by the life from here on.
        drop(image);
        life.live(begin).await;
    };
    launch(host, take_up, task);
}

/// Puts it on the board; `None` when its output can't be followed.
fn hold(host: &Host, relic: &Relic) -> Option<(Follower, watch::Receiver<Option<Duration>>)> {
    let follower = match host.follow(relic.task, &relic.home) {
        Ok(follower) => follower,
        Err(error) => {
            tracing::error!(task = %relic.task, %error, "the output of a task can't be followed; it is left alone");
            return None;
        }
    };
    let stop = host
        .board
        .hold(relic.report.clone(), relic.home.clone(), Some(follower.clone()));
    Some((follower, stop))
}

/// The rest of its life. What it needs on this node is held when this returns.
fn rest_of_life(
    host: &Arc<Host>,
    relic: Relic,
    verdict: Verdict,
    follower: Follower,
    stop: watch::Receiver<Option<Duration>>,
) -> (Life, Begin) {
    let was_stopping = relic.stop.is_some();
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
    };
    (life, begin)
}

/// `None` when the order never was on disk: then nothing was started either.
fn relic(task: TaskId, home: Home, container: Option<Found>) -> io::Result<Option<Relic>> {
    let (Some(kept), Some(report)) = (home.kept()?, home.report()?) else {
        return Ok(None);
    };
    let (started, ended, stop) = (home.started()?, home.ended()?, home.stop()?);
    Ok(Some(Relic {
        task,
        home,
        kept,
        report,
        started,
        ended,
        stop,
        container,
    }))
}

impl Relic {
    fn remains(&self) -> Remains {
        let container_runs = self.container.as_ref().is_some_and(|found| found.running);
        Remains {
            end_kept: self.report.state.is_ended(),
            was_started: self.started.is_some() || self.container.is_some(),
            // The engine supervises a container, and knows how it ended.
            supervisor_alive: self
                .started
                .as_ref()
                .is_some_and(|started| started.shim.is_alive())
                || self.container.is_some(),
            exit_recorded: self.ended.is_some(),
            program_alive: self
                .started
                .as_ref()
                .is_some_and(|started| started.program.is_alive())
                || container_runs,
        }
    }

    /// Whether only the engine can tell how it is.
    fn waits_for_engine(&self, host: &Host) -> bool {
        let runs = !self.report.state.is_ended();
        runs && self.kept.order.process_type == ProcessType::Docker && host.engine.is_enabled()
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
            if let Err(error) = relic.home.remove() {
                tracing::warn!(task = %relic.task, %error, "the directory of a task could not be removed");
            }
            return None;
        }
        Verdict::Kill => {
            if let Some(started) = &relic.started {
                native::kill_remains(host, started);
            }
        }
        Verdict::ReportEnd | Verdict::Watch | Verdict::Conclude | Verdict::ConcludeUnseen => {}
    }
    let Some((follower, stop)) = hold(host, &relic) else {
        return group_name(&relic);
    };
    if verdict == Verdict::ReportEnd {
        // Its lines may still be on their way; the report waits to be forgotten.
        follower.finish(Duration::ZERO).await;
        if let (Some(engine), Some(found)) = (host.engine.current(), &relic.container) {
            let _ = engine.remove(&found.container_id).await;
        }
        return None;
    }
    let group = if verdict == Verdict::Watch {
        group_name(&relic)
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
    if verdict != Verdict::Watch {
        let exit = relic.ended.map_or_else(Exit::default, |ended| Exit {
            code: ended.code,
            signal: ended.signal,
        });
        return Begin::Ended {
            exit,
            was_ready,
            was_stopping,
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
                exit: Exit::default(),
                was_ready,
                was_stopping,
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

fn group_name(relic: &Relic) -> Option<String> {
    let dir = relic.started.as_ref()?.groups.first()?;
    dir.file_name().map(|name| name.to_string_lossy().into_owned())
}
