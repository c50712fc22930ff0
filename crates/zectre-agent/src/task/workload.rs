//! What runs a task: a process tree or a container, behind the few things its life needs of it.

use super::{container::Container, native::Native, usage::Reading};
use crate::{core::exit::Exit, port::Listener};
use futures_util::future::BoxFuture;

/// A started task.
pub(super) struct Workload {
    /// Acts on it.
    pub(super) handle: Handle,
    /// Resolves when nothing of it is left running.
    pub(super) exit: BoxFuture<'static, Exit>,
}

/// Acts on a started task.
#[derive(Debug, Clone)]
pub(super) enum Handle {
    Native(Native),
    Container(Container),
}

impl Handle {
    /// SIGTERM to all of it.
    pub(super) async fn ask_to_end(&self) {
        match self {
            Self::Native(native) => native.ask_to_end(),
            Self::Container(container) => container.ask_to_end().await,
        }
    }

    /// SIGKILL to all of it.
    pub(super) async fn kill(&self) {
        match self {
            Self::Native(native) => native.kill(),
            Self::Container(container) => container.kill().await,
        }
    }

    /// Whether the kernel killed some of it for want of memory.
    pub(super) fn oom_killed(&self) -> bool {
        match self {
            Self::Native(native) => native.oom_killed(),
            Self::Container(container) => container.oom_killed(),
        }
    }

    /// The most processes and threads it had at once; of a container only its engine knows.
    pub(super) fn processes_peak(&self) -> Option<u32> {
        match self {
            Self::Native(native) => native.processes_peak(),
            Self::Container(_) => None,
        }
    }

    /// Who listens on its port, seen from others who know the node by its address `node`; the engine guarantees it for a container.
    pub(super) fn listener(&self, port: u16, node: &str) -> Listener {
        match self {
            Self::Native(native) => native.listener(port, node),
            Self::Container(_) => Listener::Ours,
        }
    }

    /// Whether its port is held open by something between us and it, so that a connection alone proves nothing.
    pub(super) const fn is_forwarded(&self) -> bool {
        matches!(self, Self::Container(_))
    }

    /// It is ready, or takes its time: from now on it is held to its share of the processors.
    pub(super) fn settle(&self, cpu_millis: u32) {
        match self {
            Self::Native(native) => native.settle(cpu_millis),
            Self::Container(_) => {}
        }
    }

    /// What it uses; `None` when its engine doesn't tell.
    pub(super) async fn usage(&self) -> Option<Reading> {
        match self {
            Self::Native(native) => Some(native.usage()),
            Self::Container(container) => container.usage().await,
        }
    }

    /// Clears away what it needed to run.
    pub(super) async fn clear(&self) {
        match self {
            Self::Native(native) => native.clear().await,
            Self::Container(container) => container.clear().await,
        }
    }
}
