//! A program and all that it starts, as a process group: dropping it kills the whole of it.

use tokio::process::Child;

/// A process group.
#[derive(Debug)]
pub(crate) struct Tree(Option<u32>);

impl Tree {
    /// The group of a child that was started with `process_group(0)`. To be dropped before the child is: the group's id is
    /// the child's, which must not have been reaped by then.
    pub(crate) fn of(child: &Child) -> Self {
        Self(child.id())
    }

    /// From here on there is nothing left to kill.
    pub(crate) fn has_ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let group = self
            .0
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            // That it has just ended is fine.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}
