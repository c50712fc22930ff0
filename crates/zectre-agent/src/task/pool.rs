//! Supervisors that wait in their control group for a task.
//!
//! Entering a control group costs 7 ms on an idle machine (the kernel waits for a grace period), namespaces and a
//! file view some 3 ms: far more than all the rest of a start. So two supervisors have always entered a group of
//! their own before they are needed, and the process that becomes the program waits in its namespaces.

use super::{native, stock::Wanted};
use crate::{
    cgroup::{Cgroups, Group},
    error::StartError,
    process::descendants,
    shim::{Prepare, Reply, Run, Started, Walls},
};
use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    process::Stdio,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};
use zectre_common::{id::TaskId, state::Reason};
use zectre_service::tasks::Shutdown;

/// How many wait. One is enough for wakes that come one by one; of a burst the third pays the price.
const WAITING_MAX: usize = 2;
/// How long a supervisor may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one that was given up may take to end by itself, and one that was killed to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// A supervisor in its group, without a task.
#[derive(Debug)]
pub(super) struct Waiting {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Its group.
    pub(super) group: Group,
}

/// The waiting supervisors.
#[derive(Debug)]
pub(crate) struct Pool {
    shim: PathBuf,
    cgroups: Cgroups,
    walls: Walls,
    waiting: Mutex<VecDeque<Waiting>>,
    wanted: Wanted,
}

impl Pool {
    /// None wait yet; see [`Pool::fill`].
    pub(crate) fn new(shim: PathBuf, cgroups: Cgroups, walls: Walls) -> Self {
        Self {
            shim,
            cgroups,
            walls,
            waiting: Mutex::default(),
            wanted: Wanted::default(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A supervisor: one that waits, else a new one.
    pub(super) async fn take(&self) -> Result<Waiting, StartError> {
        loop {
            let Some(mut waiting) = self.waiting().pop_front() else {
                break;
            };
            // It may have been killed by someone; then its group is of no use either.
            if matches!(waiting.child.try_wait(), Ok(None)) {
                return Ok(waiting);
            }
            waiting.end().await;
        }
        self.make()
            .await
            .map_err(|error| StartError::internal("to start a supervisor", &error))
    }

    /// Makes up for what was taken; called when a start is over, so as not to slow it down.
    pub(crate) fn refill(&self) {
        self.wanted.tell();
    }

    /// Keeps supervisors waiting until `stop`.
    pub(crate) async fn fill(&self, stop: Shutdown) {
        let full = || self.waiting().len() >= WAITING_MAX;
        // A stop that tore it apart would leave its group behind.
        let make = || async {
            let waiting = self.make().await?;
            self.waiting().push_back(waiting);
            Ok(())
        };
        self.wanted.keep(full, make, &stop).await;
        let waiting = std::mem::take(&mut *self.waiting());
        for mut one in waiting {
            // Without its input it ends by itself.
            drop(one.input);
            let _ = tokio::time::timeout(ANSWER_TIMEOUT, one.child.wait()).await;
            // The kernel may still be burying its children.
            if let Err(error) = native::remove(&one.group).await {
                stays(&one.group, &error);
            }
        }
    }

    async fn make(&self) -> io::Result<Waiting> {
        let group = self.cgroups.create(&TaskId::new().to_string())?;
        let mut waiting = match self.spawn(&group) {
            Ok((child, input, output)) => Waiting {
                child,
                input,
                output,
                group,
            },
            Err(error) => {
                if let Err(error) = group.remove() {
                    stays(&group, &error);
                }
                return Err(error);
            }
        };
        let prepare = Prepare {
            groups: waiting.group.dirs(),
            walls: self.walls.clone(),
        };
        let why = match waiting.ask(&prepare).await {
            Ok(Reply::Ready) => return Ok(waiting),
            Ok(Reply::Failed(message)) => io::Error::other(message),
            Ok(Reply::Started(_)) => io::Error::other("it answered out of turn"),
            Err(error) => error,
        };
        waiting.end().await;
        Err(why)
    }

    fn spawn(&self, group: &Group) -> io::Result<(Child, ChildStdin, BufReader<ChildStdout>)> {
        let mut child = Command::new(&self.shim)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok((child, input, BufReader::new(output))),
            _ => Err(io::Error::other(format!(
                "the supervisor of {} has no pipes",
                group.name()
            ))),
        }
    }
}

fn stays(group: &Group, error: &io::Error) {
    tracing::debug!(group = group.name(), %error, "a control group stays until the next start");
}

impl Waiting {
    async fn ask(&mut self, instructions: &impl serde::Serialize) -> io::Result<Reply> {
        let mut line = serde_json::to_vec(instructions)?;
        line.push(b'\n');
        let answer = async {
            self.input.write_all(&line).await?;
            let mut text = String::new();
            self.output.read_line(&mut text).await?;
            if text.is_empty() {
                return Err(io::Error::other("it ended without an answer"));
            }
            serde_json::from_str(&text).map_err(io::Error::other)
        };
        tokio::time::timeout(ANSWER_TIMEOUT, answer)
            .await
            .map_err(|_| io::Error::other("it did not answer in time"))?
    }

    /// Starts the program; the supervisor is the task's from now on.
    pub(super) async fn run(mut self, run: &Run) -> Result<(Started, Child, Group), StartError> {
        let reply = self
            .ask(run)
            .await
            .map_err(|error| StartError::internal("to start the program", &error));
        match reply {
            Ok(Reply::Started(started)) => Ok((started, self.child, self.group)),
            Ok(Reply::Failed(message)) => {
                Err(self.give_up(StartError::new(Reason::StartFailed, message)).await)
            }
            Ok(Reply::Ready) => Err(self
                .give_up(StartError::new(
                    Reason::Internal,
                    "the supervisor answered out of turn",
                ))
                .await),
            Err(error) => Err(self.give_up(error).await),
        }
    }

    /// Ends it because of `error`.
    pub(super) async fn give_up(self, error: StartError) -> StartError {
        self.end().await;
        error
    }

    /// Ends it, with all that it may have started, and removes its group.
    async fn end(self) {
        let Self {
            mut child,
            input,
            output,
            group,
        } = self;
        group.kill(None);
        // Without these it ends by itself, unless it hangs.
        drop((input, output));
        if tokio::time::timeout(END_TIMEOUT, child.wait()).await.is_err() {
            // Where no group holds its program, only it leads there: it goes last.
            let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
            if let Some(pid) = pid
                && !native::kill_until_gone(|| descendants(pid)).await
            {
                tracing::error!(pid, "what a supervisor that hangs has started can't be killed");
            }
            let _ = tokio::time::timeout(END_TIMEOUT, child.kill()).await;
        }
        // The kernel may still be burying its children.
        if let Err(error) = native::remove(&group).await {
            stays(&group, &error);
        }
    }
}
