//! The volumes of a container, held in place until its engine has taken them.
//!
//! An engine is told a path and follows it when the container starts. Whoever can write on the way may have put a
//! link there since the path was checked, and a pull leaves minutes for it. So each volume is opened without
//! following links and shown once more at a path that only root can change, and that path is what the engine is
//! told. Once the container runs, it has mounts of its own, and the place goes.
//!
//! Mounts that an operator made below a volume are not shown, as in native tasks.

use crate::{error::StartError, shim::detached_tree};
use rustix::{
    fs::CWD,
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount, mount_change, move_mount,
        unmount,
    },
};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};
use zectre_common::{id::TaskId, state::Reason};
use zectre_container::ContainerVolume;

/// Not below the data directory: whoever clears that away by hand must not get into a volume.
const RUN_DIR: &str = "/run/zectre-agent";

/// Where this agent shows volumes.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    dir: PathBuf,
}

/// Volumes in place; taken away again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    volumes: Vec<ContainerVolume>,
}

impl Places {
    /// Of the agent that is told from others by `scope`.
    pub(crate) fn new(scope: &str) -> Self {
        Self {
            dir: Path::new(RUN_DIR).join(scope),
        }
    }

    /// Takes away what an agent left that was killed in the middle of a start.
    pub(crate) fn clear(&self) {
        for left in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            take_away(&left.path());
        }
        // Made again by the next start that needs it.
        let _ = fs::remove_dir(&self.dir);
    }

    /// Shows the checked `volumes` of a task where nobody can swap them; `None` when there are none.
    pub(super) fn show(
        &self,
        task: TaskId,
        volumes: &[ContainerVolume],
    ) -> Result<Option<Place>, StartError> {
        if volumes.is_empty() {
            return Ok(None);
        }
        let failed = |error: io::Error| {
            StartError::new(
                Reason::VolumeRefused,
                format!("volumes of containers can't be held in place (the agent must run as root): {error}"),
            )
        };
        let dir = self.dir.join(task.to_string());
        // What an earlier start of the same task may have left.
        take_away(&dir);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(failed)?;
        let mut place = Place {
            dir,
            volumes: Vec::new(),
        };
        // An engine that lives in another mount namespace finds nothing at all then, rather than an empty directory.
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("volumes", &place.dir, "tmpfs", flags, Some(c"mode=700,size=64k"))
            .map_err(|error| failed(error.into()))?;
        for (index, volume) in volumes.iter().enumerate() {
            let at = place.dir.join(index.to_string());
            let tree = detached_tree(Path::new(&volume.host_path)).map_err(|error| {
                let message = format!(
                    "the volume {} is refused on this node: it is not what it was when it was checked ({error})",
                    volume.host_path
                );
                StartError::new(Reason::VolumeRefused, message)
            })?;
            show_at(&tree, &at).map_err(failed)?;
            place.volumes.push(ContainerVolume {
                host_path: at.display().to_string(),
                container_path: volume.container_path.clone(),
            });
        }
        Ok(Some(place))
    }
}

fn show_at(tree: &OwnedFd, at: &Path) -> io::Result<()> {
    let is_dir = rustix::fs::fstat(tree)?.st_mode & 0o170_000 == 0o040_000;
    if is_dir {
        fs::create_dir(at)?;
    } else {
        File::create(at)?;
    }
    move_mount(tree.as_fd(), "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    // What is unmounted here must not be unmounted in the volume itself.
    mount_change(at, MountPropagationFlags::PRIVATE)?;
    Ok(())
}

/// Never recursive: what can't be unmounted is somebody's data.
fn take_away(dir: &Path) {
    // The volumes go with the mount that they are in; where nothing is mounted, this fails and there is nothing to do.
    while unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), %error, "a place of volumes stays until the next start");
        }
        _ => {}
    }
}

impl Place {
    /// What the engine is told.
    pub(super) fn volumes(&self) -> &[ContainerVolume] {
        &self.volumes
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        take_away(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(path: &Path) -> Vec<ContainerVolume> {
        vec![ContainerVolume {
            host_path: path.display().to_string(),
            container_path: "/data".into(),
        }]
    }

    #[test]
    fn a_link_that_came_after_the_check_leads_nowhere() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().canonicalize().expect("there");
        let (way, prey) = (root.join("way"), root.join("prey"));
        for path in [&way, &prey] {
            fs::create_dir_all(path.join("volume")).expect("made");
            fs::write(path.join("volume/name"), path.display().to_string()).expect("written");
        }
        let places = Places::new(&format!("test-{}", TaskId::new()));
        let checked = volume(&way.join("volume"));
        let place = places.show(TaskId::new(), &checked).expect("held").expect("one");
        // From here on the way there may lead anywhere.
        fs::rename(&way, root.join("away")).expect("moved");
        std::os::unix::fs::symlink(&prey, &way).expect("linked");
        let shown = PathBuf::from(&place.volumes()[0].host_path);
        let name = fs::read_to_string(shown.join("name")).expect("shown");
        assert_eq!(name, way.display().to_string());
        fs::write(shown.join("kept"), "kept").expect("writable");
        let error = places.show(TaskId::new(), &checked).expect_err("a link");
        assert_eq!(error.reason, Reason::VolumeRefused);
        drop(place);
        assert!(!shown.exists() && root.join("away/volume/kept").exists());
        places.clear();
        assert!(!places.dir.exists(), "nothing is left");
    }

    #[test]
    fn what_a_killed_agent_left_goes_and_the_volume_stays() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().canonicalize().expect("there");
        fs::write(path.join("file"), "kept").expect("written");
        let places = Places::new(&format!("test-{}", TaskId::new()));
        let place = places.show(TaskId::new(), &volume(&path)).expect("held");
        std::mem::forget(place);
        places.clear();
        assert!(!places.dir.exists() && path.join("file").exists());
        assert!(places.show(TaskId::new(), &[]).expect("nothing to do").is_none());
    }
}
