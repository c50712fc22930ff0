//! Takes up, at the agent's start, what an earlier agent left: running tasks go on under this one, ended ones are
//! concluded, and what belongs to nobody is killed.

use super::{
    Home, container,
    home::Kept,
    life::{Begin, Life, launch},
    native,
};
use crate::{
    core::{
        adopt::{Remains, Verdict, verdict},
        exit::Exit,
    },
    error::Error,
    host::Host,
    shim::{Ended, Started},
};
use std::{collections::HashMap, io, sync::Arc, time::Duration};
use zectre_common::{id::TaskId, spec::ProcessType, state::TaskState, wire::agent::TaskReport};
use zectre_container::Found;

/// All that is left of one task.
struct Relic {
    task: TaskId,
    home: Home,
    kept: Kept,
    report: TaskReport,
    started: Option<Started>,
    ended: Option<Ended>,
    container: Option<Found>,
}

/// Takes up everything.
pub(crate) async fn adopt_all(host: &Arc<Host>) -> Result<(), Error> {
    let failed = |source| Error::DataDir {
        path: host.tasks_dir.clone(),
        source,
    };
    let mut containers: HashMap<TaskId, Found> = match &host.engine {
        Some(engine) => engine
            .list_ours()
            .await?
            .into_iter()
            .map(|found| (found.task_id, found))
            .collect(),
        None => HashMap::new(),
    };
    let mut groups = Vec::new();
    for task in Home::list(&host.tasks_dir).map_err(failed)? {
        let home = Home::of(&host.tasks_dir, task);
        match relic(task, home.clone(), containers.remove(&task)) {
            Ok(Some(relic)) => groups.extend(adopt(host, relic).await),
            Ok(None) => home.remove().map_err(failed)?,
            // Killing what can't be understood could kill a healthy task; leaving it costs a directory.
            Err(error) => {
                tracing::error!(%task, %error, "the records of a task can't be read; it is left alone");
            }
        }
    }
    native::kill_strays(host, &groups).await;
    for found in containers.values() {
        tracing::warn!(task = %found.task_id, "removing a container that belongs to no task");
        if let Some(engine) = &host.engine {
            engine.remove(&found.container_id).await?;
        }
    }
    Ok(())
}

/// `None` when the order never was on disk: then nothing was started either.
fn relic(task: TaskId, home: Home, container: Option<Found>) -> io::Result<Option<Relic>> {
    let (Some(kept), Some(report)) = (home.kept()?, home.report()?) else {
        return Ok(None);
    };
    let (started, ended) = (home.started()?, home.ended()?);
    Ok(Some(Relic {
        task,
        home,
        kept,
        report,
        started,
        ended,
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
    let follower = match host.follow(relic.task, &relic.home) {
        Ok(follower) => follower,
        Err(error) => {
            tracing::error!(task = %relic.task, %error, "the output of a task can't be followed; it is left alone");
            return group_name(&relic);
        }
    };
    let stop = host
        .board
        .hold(relic.report.clone(), relic.home.clone(), Some(follower.clone()));
    if verdict == Verdict::ReportEnd {
        // Its lines may still be on their way; the report waits to be forgotten.
        follower.finish(Duration::ZERO).await;
        if let (Some(engine), Some(found)) = (&host.engine, &relic.container) {
            let _ = engine.remove(&found.container_id).await;
        }
        return None;
    }
    let was_stopping = relic.report.state == TaskState::Stopping;
    if was_stopping {
        host.board.stop(
            relic.task,
            Duration::from_secs(relic.kept.order.stop_grace_secs.into()),
        );
    }
    let group = if verdict == Verdict::Watch {
        group_name(&relic)
    } else {
        None
    };
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
    let workload = match (order.process_type, relic.started, relic.container, &host.engine) {
        (ProcessType::Docker, _, Some(found), Some(engine)) => {
            container::adopt(host, engine, &relic.home, found.container_id)
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
    let cached = order
        .artifact
        .as_ref()
        .and_then(|artifact| host.cache.lease_of(artifact));
    Begin::Running {
        workload: Box::new(workload),
        cached,
        was_ready,
        accepted_at: relic.kept.accepted_at,
    }
}

fn group_name(relic: &Relic) -> Option<String> {
    let dir = relic.started.as_ref()?.groups.first()?;
    dir.file_name().map(|name| name.to_string_lossy().into_owned())
}
