//! What is done at once when an order is accepted; the rest happens in the task's life.

use super::{
    Home,
    board::report,
    home::Kept,
    life::{Begin, Life},
    supervision::launch,
};
use crate::{error::StartError, host::Host, log::Follower};
use std::{sync::Arc, time::Duration};
use zectre_common::{
    id::TaskId,
    state::{Reason, TaskState},
    time::Time,
    wire::agent::TaskOrder,
};

/// How long the lines of a forgotten task may take to be shipped before they are given up.
const SHIP_DEADLINE: Duration = Duration::from_secs(3_600);

/// Takes a task up and begins its start. Its order is on disk before anything is started.
pub(crate) fn start(host: &Arc<Host>, task: TaskId, generation: u64, order: TaskOrder) {
    let home = Home::of(&host.tasks_dir, task);
    match prepare(host, task, generation, &home, &order) {
        Ok(follower) => {
            // Not kept: the order on disk says as much.
            let starting = report(task, generation, TaskState::Starting);
            let stop = host.board.take_up(starting, home.clone(), Some(follower.clone()));
            let life = Life {
                host: host.clone(),
                task,
                order,
                home,
                follower,
                stop,
                overran: false,
            };
            launch(host, life.live(Begin::Start), task);
        }
        Err(error) => {
            let mut failed = report(task, generation, TaskState::Failed);
            (failed.reason, failed.message) = (Some(error.reason), Some(error.message));
            host.board.hold(failed, home, None);
        }
    }
}

fn prepare(
    host: &Host,
    task: TaskId,
    generation: u64,
    home: &Home,
    order: &TaskOrder,
) -> Result<Follower, StartError> {
    let ports = host.config.port_min..=host.config.port_max;
    if !ports.contains(&order.port) {
        let message = format!(
            "port {} is not one of this node's ({} to {})",
            order.port,
            ports.start(),
            ports.end()
        );
        return Err(StartError::new(Reason::Internal, message));
    }
    let uid = host.uid(&order.namespace, &order.application)?;
    let kept = Kept::new(order, generation, Time::now());
    home.make(&kept, uid, &host.spares)
        .map_err(|error| StartError::internal("to make the task's directory", &error))?;
    host.follow(task, home)
        .map_err(|error| StartError::internal("to follow the task's output", &error))
}

/// A stop of something that isn't here: it is told as stopped, and a late start of it will be refused.
pub(crate) fn hold_stopped(host: &Host, task: TaskId, generation: u64) {
    let mut stopped = report(task, generation, TaskState::Stopped);
    stopped.message = Some("it was not on this node".into());
    host.board.hold(stopped, Home::of(&host.tasks_dir, task), None);
}

/// Drops a task; its files go once its lines are shipped.
pub(crate) fn forget(host: &Arc<Host>, task: TaskId, generation: u64) {
    let Some((home, follower)) = host.board.forget(task, generation) else {
        return;
    };
    let remover = host.remover.clone();
    host.spawn("forget", async move {
        if let Some(follower) = follower
            && !follower.shipped(SHIP_DEADLINE).await
        {
            tracing::warn!(%task, "lines of a forgotten task are given up: they could not be shipped");
        }
        if let Err(error) = remover.remove(home.dir().into()).await {
            tracing::warn!(%task, %error, "the directory of a task could not be removed");
        }
    });
}
