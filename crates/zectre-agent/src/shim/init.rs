//! Pid 1 of a task's namespace: what loses its parent becomes its child, and is reaped.
//!
//! When it ends, the kernel kills everything in the namespace and lets nobody in; so it ends when its supervisor
//! does, and a task can't outlive the one that knows of it. It holds no rights and no files.

use super::rights;
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::WaitOptions,
};
use std::{io, process::ExitCode};

/// The argument that asks for this role.
pub(super) const ROLE: &str = "init";

pub(super) fn main() -> ExitCode {
    // Nobody would read a complaint: the supervisor sees that it is gone.
    match reap() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Reaps until the supervisor closes our standard input.
fn reap() -> io::Result<()> {
    std::env::set_current_dir("/")?;
    let mut ended = SigSet::empty();
    ended.add(Signal::SIGCHLD);
    ended.thread_block()?;
    let children = SignalFd::with_flags(&ended, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    rights::drop_capabilities().map_err(io::Error::other)?;
    let supervisor = io::stdin();
    loop {
        let mut awaited = [
            PollFd::new(&supervisor, PollFlags::IN),
            PollFd::new(&children, PollFlags::IN),
        ];
        match poll(&mut awaited, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !awaited[0].revents().is_empty() {
            return Ok(());
        }
        // One signal may stand for many children, so its number says nothing.
        while children.read_signal()?.is_some() {}
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}
