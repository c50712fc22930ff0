//! Lives that tasks are watched in, and what is done when one of them fails.
//!
//! A fault of ours in a life ends its task: its program must neither run on without anybody who knows of it, nor be told as
//! ended while it runs.

use super::{board::Board, container, life::TAIL_TIMEOUT, native};
use crate::{core::tail, host::Host};
use futures_util::FutureExt;
use std::{panic::AssertUnwindSafe, sync::Arc};
use zectre_common::{
    id::TaskId,
    state::{Reason, TaskState},
};

/// What is said of a task whose supervision failed.
const MESSAGE: &str = "the agent failed to supervise the task, so it was ended; the agent's log says more";

/// Lives a life in the background.
pub(super) fn launch(host: &Arc<Host>, life: impl Future<Output = ()> + Send + 'static, task: TaskId) {
    let supervised = host.clone();
    host.spawn("task", async move {
        if AssertUnwindSafe(life).catch_unwind().await.is_err() {
            tracing::error!(%task, "the supervision of a task panicked");
            end_unwatched(&supervised, task).await;
        }
    });
}

/// Ends what runs of a task that nobody watches any more, and only then tells of its end.
async fn end_unwatched(host: &Host, task: TaskId) {
    let board: &Board = &host.board;
    let Some((home, follower)) = board.belongings(task) else {
        return;
    };
    board.update(task, |report| {
        report.state = TaskState::Stopping;
        report.healthy = false;
    });
    match home.started() {
        Ok(Some(started)) => native::kill_remains(host, &started).await,
        Ok(None) => {}
        Err(error) => {
            tracing::error!(%task, %error, "what runs of a task can't be ended: its record can't be read");
        }
    }
    container::kill_remains(host, task).await;
    let log_tail = match follower {
        Some(follower) => follower.finish(Some(MESSAGE.into()), TAIL_TIMEOUT).await,
        None => Vec::new(),
    };
    board.update(task, |report| {
        report.state = TaskState::Failed;
        report.port = None;
        report.usage = None;
        report.reason = Some(Reason::Internal);
        report.message = Some(MESSAGE.into());
        report.log_tail = tail::bounded(log_tail);
    });
    host.refill();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        collect::Collector,
        identity::Identities,
        log::Shipping,
        process::{ProcessId, boot},
        shim::{STARTED_FILE, Started},
        task::{Home, board::report},
    };
    use std::{
        fs,
        os::unix::fs::PermissionsExt,
        path::Path,
        process::{Child, Command, Stdio},
    };
    use zectre_common::config::Config;
    use zectre_service::{
        call::{Caller, Identity},
        metrics::Registry,
        tasks::{Shutdown, Tasks},
    };

    /// A node that can hold programs to nothing.
    async fn host(dir: &Path) -> Arc<Host> {
        let shim = dir.join("shim");
        let no = r#"{"Err":"not here"}"#;
        let attempted = format!(r#"{{"root":{no},"landlock":{no},"seccomp":{no},"metadata":{no}}}"#);
        fs::write(&shim, format!("#!/bin/sh\necho '{attempted}'\n")).expect("written");
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).expect("ours");
        let settings = format!(
            "agent.data_dir = {dir:?}\nagent.shim = {shim:?}\nagent.address_override = \"127.0.0.1\"\n"
        );
        let config = Config::load_with(None, &settings).expect("valid settings");
        let (caller, metrics) = (Caller::with_identity(Identity::Anonymous), Registry::new());
        let identities = Identities::open(dir).expect("nobody yet");
        let shipping = Shipping::new(caller.clone(), "http://127.0.0.1:9", identities.watch(), &metrics);
        let (collector, tasks) = (Collector::new().0, Tasks::new(Shutdown::new()));
        let host = Host::new(&config, &caller, shipping, collector, tasks, &metrics).await;
        Arc::new(host.expect("a node"))
    }

    /// A program that supervises itself.
    fn begin(home: &Home) -> Child {
        let child = Command::new("setsid")
            .args(["sleep", "1000"])
            .stdin(Stdio::null())
            .spawn()
            .expect("part of every Debian");
        let pid = i32::try_from(child.id()).expect("a pid");
        let myself = ProcessId::of(pid).expect("not waited for yet");
        let started = Started {
            shim: myself,
            program: myself,
            groups: Vec::new(),
            boot: boot(),
        };
        fs::create_dir_all(home.dir()).expect("made");
        crate::record::write(&home.dir().join(STARTED_FILE), &started).expect("kept");
        child
    }

    async fn told(host: &Host) -> zectre_common::wire::agent::TaskReport {
        let ended = async {
            loop {
                let mut news = host.board.news(1).await;
                if let Some(report) = news.pop().filter(|report| report.state.is_ended()) {
                    return report;
                }
            }
        };
        let in_time = tokio::time::timeout(std::time::Duration::from_secs(60), ended).await;
        in_time.expect("its end is told")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_program_outlives_its_supervision() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = host(&dir.path().canonicalize().expect("there")).await;
        let task = TaskId::new();
        let home = Home::of(&host.tasks_dir, task);
        let mut program = begin(&home);
        let running = report(task, 1, TaskState::Running);
        let follower = host.follow(task, &home).expect("its output is there");
        host.board.hold(running, home.clone(), Some(follower));
        launch(&host, async { panic!("on purpose") }, task);
        let report = told(&host).await;
        let ended = program.try_wait().expect("our child");
        if ended.is_none() {
            program.kill().expect("it runs");
        }
        assert!(ended.is_some(), "it is gone before its end is told");
        assert_eq!(
            (report.state, report.reason),
            (TaskState::Failed, Some(Reason::Internal))
        );
        assert_eq!(report.message.as_deref(), Some(MESSAGE));
        let last = report.log_tail.last().map(|line| line.message.as_str());
        assert_eq!(last, Some(MESSAGE), "its log ends with it, too");
        let kept = home.report().expect("readable").expect("kept");
        assert_eq!(kept.state, TaskState::Failed);
    }
}
