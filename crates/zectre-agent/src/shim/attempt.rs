//! Tries once, in a process that ends afterwards, what this machine can enforce.
//!
//! Asking a kernel for its version or its configuration would say what it could do; whether it does here (in a
//! container, as this user) shows only when it is tried.

use super::{Attempted, Prepare, Walls, filter, pass, paths::Rules, rights, supervise::Crew, view};
use nix::sched::CloneFlags;
use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// The argument that asks for this role; an empty directory follows it, and a task's user where there is one.
pub(super) const ROLE: &str = "attempt";
/// What nearly every cloud has its metadata at.
const METADATA: (Ipv4Addr, u16) = (Ipv4Addr::new(169, 254, 169, 254), 80);

pub(super) fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(2);
    let Some(root_dir) = args.next().map(PathBuf::from) else {
        return ExitCode::from(64);
    };
    let uid = args.next().and_then(|uid| uid.to_str()?.parse().ok());
    // In this order: each takes away what the one before needs.
    let attempted = Attempted {
        root: attempt_root(&root_dir),
        metadata: uid.map_or(Ok(()), attempt_metadata),
        landlock: Rules::new().and_then(Rules::hold),
        seccomp: attempt_filter(),
    };
    match pass::write_line(&mut io::stdout().lock(), &attempted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Asks for the way there as a task; nothing is sent.
fn attempt_metadata(uid: u32) -> Result<(), String> {
    rights::become_user(uid)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|error| error.to_string())?;
    match socket.connect(METADATA) {
        Err(_) => Ok(()),
        Ok(()) => Err("a rule was made, but it doesn't hold".into()),
    }
}

/// Builds a whole one; it ends with us.
fn attempt_root(root_dir: &Path) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("the agent is not run as root".into());
    }
    let prepare = Prepare {
        walls: Walls {
            root_dir: Some(root_dir.into()),
            ..Walls::default()
        },
        ..Prepare::default()
    };
    Crew::muster(&prepare)?;
    // How a task's own directories get there; kernels before 5.6 can't.
    view::tree(root_dir).map(drop)
}

/// A filter that doesn't filter is none.
fn attempt_filter() -> Result<(), String> {
    rights::drop_capabilities()?;
    filter::install_first()?;
    filter::Last::new()?.install()?;
    match nix::sched::unshare(CloneFlags::CLONE_NEWUSER) {
        Err(nix::errno::Errno::EPERM) => Ok(()),
        _ => Err("a system call that is refused was carried out".into()),
    }
}
