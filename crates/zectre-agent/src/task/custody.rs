//! Tasks whose order can't be read any more. Nobody knows how such a one was to be, so it is neither probed nor judged; but
//! that it runs, and where, is known, and so it can be told of, watched and stopped.

use super::{
    Home,
    board::Wish,
    life::{KILL_TIMEOUT, TAIL_TIMEOUT},
    native,
    supervision::launch,
    workload::Workload,
};
use crate::{core::tail, host::Host, log::Follower, shim::Started};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use zectre_common::{
    id::TaskId,
    state::{Reason, TaskState},
};

/// Between SIGTERM and SIGKILL, when the agent stops: its own grace stood in its order. 10 s is what a spec says by default.
const GRACE: Duration = Duration::from_secs(10);
/// What is said of one that ended by itself.
const MESSAGE: &str =
    "the task ended; how it was to run was not known any more: its records on the node could not be read";

/// Takes a task up of which the last report and the supervisor are known; whether that is so.
pub(super) fn take_up(host: &Arc<Host>, task: TaskId, home: &Home) -> bool {
    let (Ok(Some(report)), Ok(Some(started))) = (home.report(), home.started()) else {
        return false;
    };
    if report.state.is_ended() || !started.is_supervised() {
        return false;
    }
    let follower = host.follow_on(task, home);
    let stop = host.board.hold(report, home.clone(), Some(follower.clone()));
    let ward = Ward {
        host: host.clone(),
        task,
        home: home.clone(),
        started,
        follower,
    };
    launch(host, ward.guard(stop), task);
    true
}

/// One of them.
struct Ward {
    host: Arc<Host>,
    task: TaskId,
    home: Home,
    started: Started,
    follower: Follower,
}

impl Ward {
    /// Watches it until its end, which it comes to by itself or because it is ordered.
    async fn guard(self, mut stop: watch::Receiver<Option<Wish>>) {
        let Workload { handle, mut exit } = native::adopt(&self.host, &self.home, self.started);
        let board = &self.host.board;
        let wish = tokio::select! {
            biased;
            _ = &mut exit => None,
            wish = stop.wait_for(Option::is_some) => wish.ok().and_then(|wish| *wish),
        };
        if let Some(wish) = wish {
            board.update(self.task, |report| {
                report.state = TaskState::Stopping;
                report.healthy = false;
            });
            handle.ask_to_end().await;
            let grace = match wish {
                Wish::Within(grace) => grace,
                Wish::OwnGrace => GRACE,
            };
            let has_ended = tokio::select! {
                biased;
                _ = &mut exit => true,
                () = tokio::time::sleep(grace) => false,
                () = board.time_is_over() => false,
            };
            if !has_ended {
                handle.kill().await;
                if tokio::time::timeout(KILL_TIMEOUT, exit).await.is_err() {
                    tracing::error!(task = %self.task, "a killed task is not gone");
                }
            }
        }
        handle.clear().await;
        let last_word = wish.is_none().then(|| MESSAGE.to_owned());
        let log_tail = self.follower.finish(last_word, TAIL_TIMEOUT).await;
        board.update(self.task, |report| {
            (report.healthy, report.port, report.usage) = (false, None, None);
            if wish.is_some() {
                report.state = TaskState::Stopped;
            } else {
                report.state = TaskState::Failed;
                report.reason = Some(Reason::Internal);
                report.message = Some(MESSAGE.into());
                report.log_tail = tail::bounded(log_tail);
            }
        });
    }
}
