//! Which directories of the node a task may see.

use crate::error::StartError;
use std::path::{Component, Path, PathBuf};
use zectre_common::{
    spec::{ProcessType, Volume},
    state::Reason,
};
use zectre_container::ContainerVolume;

/// Checks `volumes` against the configured paths. Links are followed first, so that none leads out of them.
pub(super) fn check(
    volumes: &[Volume],
    allowed: &[PathBuf],
    process_type: ProcessType,
) -> Result<Vec<ContainerVolume>, StartError> {
    // A path that isn't there allows nothing.
    let allowed: Vec<PathBuf> = allowed
        .iter()
        .filter_map(|path| path.canonicalize().ok())
        .collect();
    volumes
        .iter()
        .map(|volume| check_one(volume, &allowed, process_type))
        .collect()
}

fn check_one(
    volume: &Volume,
    allowed: &[PathBuf],
    process_type: ProcessType,
) -> Result<ContainerVolume, StartError> {
    let refuse = |why: &str| {
        StartError::new(
            Reason::VolumeRefused,
            format!("the volume {} is refused on this node: {why}", volume.host_path),
        )
    };
    let real = Path::new(&volume.host_path)
        .canonicalize()
        .map_err(|error| refuse(&error.to_string()))?;
    if !allowed.iter().any(|path| real.starts_with(path)) {
        return Err(refuse("it is not below any of agent.allowed_volume_paths"));
    }
    if process_type == ProcessType::Tish && volume.host_path != volume.container_path {
        return Err(refuse(
            "a native task sees it where it is, so container_path must be the same as host_path",
        ));
    }
    let inside = Path::new(&volume.container_path);
    let plain = inside.is_absolute()
        && inside
            .components()
            .all(|part| !matches!(part, Component::ParentDir));
    // The engine separates the two paths, and options after them, with colons.
    let (Some(host_path), true) = (
        real.to_str().filter(|path| !path.contains(':')),
        plain && !volume.container_path.contains(':'),
    ) else {
        return Err(refuse("both paths must be absolute, without `..` and `:`"));
    };
    Ok(ContainerVolume {
        host_path: host_path.into(),
        container_path: volume.container_path.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(host: &Path, inside: &str) -> Vec<Volume> {
        vec![Volume {
            host_path: host.display().to_string(),
            container_path: inside.into(),
        }]
    }

    #[test]
    fn only_what_is_below_an_allowed_path_passes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (good, other) = (dir.path().join("good"), dir.path().join("other"));
        for path in [&good, &other] {
            std::fs::create_dir(path).expect("made");
        }
        std::os::unix::fs::symlink(&other, good.join("escape")).expect("linked");
        let allowed = [good.clone(), dir.path().join("absent")];
        let ask = |host: &Path, inside: &str| check(&volume(host, inside), &allowed, ProcessType::Docker);
        assert_eq!(ask(&good, "/data").expect("allowed").len(), 1);
        for (host, inside) in [
            (other.clone(), "/data"),
            (good.join("escape"), "/data"),
            (good.join("../other"), "/data"),
            (dir.path().join("absent"), "/data"),
            (good.clone(), "data"),
            (good.clone(), "/a/../b"),
            (good.clone(), "/data:rw"),
        ] {
            let error = ask(&host, inside).expect_err("refused");
            assert_eq!(error.reason, Reason::VolumeRefused, "{}", host.display());
        }
        assert!(check(&volume(&good, "/data"), &allowed, ProcessType::Tish).is_err());
        let same = good.display().to_string();
        assert!(check(&volume(&good, &same), &allowed, ProcessType::Tish).is_ok());
    }
}
