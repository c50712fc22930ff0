//! The file view of a task: a root of its own, built from nothing.
//!
//! | path | what |
//! |---|---|
//! | `/usr` and its like | the host's, read-only |
//! | `/etc` | what programs need to find names, certificates and libraries; nothing else of the host's |
//! | `/app` | the task's artifact, read-only |
//! | `/home/app`, `/tmp`, `/dev/shm` | scratch: one tmpfs of bounded size, so it counts as the task's memory |
//! | `/proc` | of the task's own processes, read-only |
//! | `/dev` | null, zero, full, random, urandom |
//! | `/sys/fs/cgroup` | the task's own control groups, read-only: language runtimes look up their limits there |
//!
//! Nothing of the host's disk can be written but volumes. Most of it is built before the task is known
//! ([`build`]); the rest ([`finish`]) takes a fraction of a millisecond.

use super::{Run, Shown};
use rustix::{
    fs::{CWD, Gid, Mode, OFlags, ResolveFlags, Uid, openat2},
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
        mount_change, mount_remount, move_mount, open_tree, unmount,
    },
};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

/// Where a program with a file view of its own finds its artifact.
pub const APP_DIR: &str = "/app";
/// Its home.
pub const HOME_DIR: &str = "/home/app";

/// Programs and libraries, as far as a machine has them.
pub(super) const SYSTEM_PATHS: [&str; 9] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/gnu/store",
];
/// What programs look up in `/etc`, as far as a machine has it: libraries, names, certificates, time.
pub(super) const SETTINGS_PATHS: [&str; 17] = [
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
];
/// The two that change while a machine runs, so they are taken at the start.
pub(super) const NAME_FILES: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];
/// The devices that any program may expect.
pub(super) const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];
/// Scratch, inside.
pub(super) const SCRATCH_PATHS: [&str; 3] = [HOME_DIR, "/tmp", "/dev/shm"];
/// Directories that are made empty.
const DIRS: [&str; 9] = [
    "/app",
    "/dev/shm",
    "/etc",
    "/home/app",
    "/proc",
    "/run",
    "/sys",
    "/tmp",
    "/var",
];

const SEALED: MountFlags = MountFlags::RDONLY
    .union(MountFlags::NOSUID)
    .union(MountFlags::NODEV);
const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
/// The directory entries that scratch may have, per MiB of its size.
const SCRATCH_FILES_PER_MIB: u64 = 1_024;

/// What the two name files hold on the host now, in their order.
pub(super) fn name_files() -> [String; 2] {
    NAME_FILES.map(|path| fs::read_to_string(path).unwrap_or_default())
}

/// A detached copy of the mount at `path`, to be put into another namespace by [`finish`]. The path was made free of
/// links when it was checked; a task that can write on the way may have put one there since.
pub(crate) fn tree(path: &Path) -> Result<OwnedFd, String> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    let copy =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    opened
        .and_then(|opened| open_tree(opened, "", copy))
        .map_err(|error| format!("showing {}: {error}", path.display()))
}

/// Builds the root on the empty directory `at` and enters it. The caller is in a mount namespace and a process
/// namespace of its own.
pub(super) fn build(at: &Path, groups: &[PathBuf]) -> Result<(), String> {
    let said = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(io::Error::from)
        .map_err(said("cutting off the host's mounts"))?;
    mount(
        "root",
        at,
        "tmpfs",
        PLAIN,
        Some(c"mode=755,size=4m,nr_inodes=4096"),
    )
    .map_err(io::Error::from)
    .map_err(said("mounting a root"))?;
    for dir in DIRS {
        make_dir(&inside(at, dir)).map_err(said("making directories"))?;
    }
    for path in SYSTEM_PATHS.iter().chain(&SETTINGS_PATHS) {
        show(at, Path::new(path), SEALED).map_err(|error| format!("showing {path}: {error}"))?;
    }
    for device in DEVICES {
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        show(at, Path::new(device), flags).map_err(|error| format!("showing {device}: {error}"))?;
    }
    for (name, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        symlink(format!("/proc/self/fd{target}"), inside(at, "/dev").join(name)).map_err(said("linking"))?;
    }
    symlink("/tmp", inside(at, "/var/tmp")).map_err(said("linking"))?;
    symlink("/proc/self/mounts", inside(at, "/etc/mtab")).map_err(said("linking"))?;
    for group in groups {
        show_group(at, group).map_err(said("showing the control group"))?;
    }
    scratch(at).map_err(said("mounting scratch"))?;
    let flags = SEALED | MountFlags::NOEXEC;
    mount("proc", inside(at, "/proc"), "proc", flags, Some(c"hidepid=2"))
        .map_err(io::Error::from)
        .map_err(said("mounting /proc"))?;
    enter(at).map_err(said("entering the root"))
}

/// `path` below `at`.
fn inside(at: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    at.join(path.strip_prefix("/").unwrap_or(path))
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Shows what the host has at `path`, if anything: a link as a link, the rest as a mount.
fn show(at: &Path, path: &Path, flags: MountFlags) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let to = inside(at, path);
    if let Some(parent) = to.parent() {
        make_dir(parent)?;
    }
    if metadata.is_symlink() {
        return symlink(fs::read_link(path)?, to);
    }
    mount_at(path, &to, metadata.is_dir(), flags)
}

/// In place of the whole hierarchy: to the task, its own group is the root of it.
fn show_group(at: &Path, group: &Path) -> io::Result<()> {
    // Hierarchy, `zectre`, agent, task.
    let Some(hierarchy) = group.ancestors().nth(3) else {
        return Ok(());
    };
    mount_at(group, &inside(at, hierarchy), true, SEALED | MountFlags::NOEXEC)
}

fn mount_at(from: &Path, to: &Path, is_dir: bool, flags: MountFlags) -> io::Result<()> {
    make_mount_point(to, is_dir)?;
    mount_bind(from, to)?;
    mount_remount(to, MountFlags::BIND | flags, "")?;
    Ok(())
}

fn make_mount_point(at: &Path, is_dir: bool) -> io::Result<()> {
    if is_dir {
        make_dir(at)
    } else {
        File::create(at).map(drop)
    }
}

/// One tmpfs, seen in three places, so that they share one bound. The bound comes with the task.
fn scratch(at: &Path) -> io::Result<()> {
    let whole = inside(at, "/run");
    mount(
        "scratch",
        &whole,
        "tmpfs",
        PLAIN,
        Some(c"mode=755,size=1m,nr_inodes=64"),
    )?;
    for (index, path) in SCRATCH_PATHS.iter().enumerate() {
        let part = whole.join(index.to_string());
        fs::create_dir(&part)?;
        // Home becomes the task's own at its start; the others are as everywhere.
        let mode = if *path == HOME_DIR { 0o700 } else { 0o1777 };
        fs::set_permissions(&part, fs::Permissions::from_mode(mode))?;
        mount_bind(&part, inside(at, path))?;
    }
    unmount(&whole, UnmountFlags::DETACH)?;
    Ok(())
}

fn enter(at: &Path) -> io::Result<()> {
    std::env::set_current_dir(at)?;
    // The old root is put on top of the new one, and taken off again: no directory is needed for it.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}

/// What the task brings: its artifact and volumes (as mounts by [`tree`], in this order), its names, its user.
pub(super) fn finish(run: &Run, names: &[String; 2], mut trees: Vec<OwnedFd>) -> Result<(), String> {
    if trees.len() != run.volumes.len() + 1 {
        return Err("not every directory was handed over".into());
    }
    let volumes = trees.split_off(1);
    for artifact in trees {
        place(&artifact, Path::new(APP_DIR), SEALED)
            .map_err(|error| format!("showing the artifact: {error}"))?;
    }
    for (Shown { path, .. }, tree) in run.volumes.iter().zip(volumes) {
        place(&tree, path, PLAIN)
            .map_err(|error| format!("the volume can't be shown at {}: {error}", path.display()))?;
    }
    settle(run, names).map_err(|error| format!("preparing the task's files: {error}"))
}

fn place(tree: &OwnedFd, at: &Path, flags: MountFlags) -> io::Result<()> {
    let is_dir = rustix::fs::fstat(tree)?.st_mode & 0o170_000 == 0o040_000;
    if let Some(parent) = at.parent() {
        make_dir(parent)?;
    }
    make_mount_point(at, is_dir)?;
    move_mount(tree.as_fd(), "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    mount_remount(at, MountFlags::BIND | flags, "")?;
    Ok(())
}

fn settle(run: &Run, names: &[String; 2]) -> io::Result<()> {
    let [hosts, resolver] = names;
    let name = host_name(&run.arg0);
    fs::write("/etc/hosts", format!("{hosts}\n127.0.0.1 {name}\n"))?;
    fs::write("/etc/resolv.conf", resolver)?;
    let uid = run.uid.unwrap_or(0);
    fs::write(
        "/etc/passwd",
        format!("root:x:0:0:root:/:/usr/sbin/nologin\napp:x:{uid}:{uid}:{name}:{HOME_DIR}:/bin/sh\n"),
    )?;
    fs::write("/etc/group", format!("root:x:0:\napp:x:{uid}:\n"))?;
    let mib = run.scratch_bytes_max.div_ceil(1 << 20);
    let bounds = format!("size={mib}m,nr_inodes={}", mib.max(1) * SCRATCH_FILES_PER_MIB);
    mount_remount("/tmp", PLAIN, bounds)?;
    rustix::fs::chown(HOME_DIR, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)))?;
    rustix::system::sethostname(name.as_bytes())?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    mount_remount("/", MountFlags::BIND | SEALED, "")?;
    Ok(())
}

/// A host name has few kinds of characters, and at most 63 of them.
fn host_name(name: &str) -> String {
    let plain = name.chars().map(|letter| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' => letter,
        _ => '-',
    });
    let plain: String = plain.take(63).collect();
    match plain.trim_matches('-') {
        "" => "app".into(),
        name => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_plain() {
        for (name, plain) in [
            ("hello", "hello"),
            ("my_app.v2\n", "my-app-v2"),
            ("--", "app"),
            ("", "app"),
        ] {
            assert_eq!(host_name(name), plain);
        }
        assert_eq!(host_name(&"x".repeat(200)).len(), 63);
    }
}
