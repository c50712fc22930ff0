//! Where PostgreSQL's programs are.

use super::super::error::UpError;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Where Debian and its like keep every version, which PATH doesn't lead to.
const DEBIAN: &str = "/usr/lib/postgresql";

/// A directory with `initdb` and `postgres`.
#[derive(Debug, Clone)]
pub(crate) struct Binaries(PathBuf);

impl Binaries {
    /// The newest installed version, else the one that PATH leads to.
    pub(crate) fn find() -> Result<Self, UpError> {
        newest_in(Path::new(DEBIAN))
            .or_else(on_path)
            .map(Self)
            .ok_or(UpError::NoPostgres)
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.0.join("initdb")
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.0.join("postgres")
    }
}

fn is_complete(directory: &Path) -> bool {
    ["initdb", "postgres"]
        .iter()
        .all(|name| directory.join(name).is_file())
}

fn newest_in(versions: &Path) -> Option<PathBuf> {
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<f32>().ok();
    let found = fs::read_dir(versions).ok()?.flatten().filter_map(|entry| {
        let version = number(&entry.path())?;
        let directory = entry.path().join("bin");
        is_complete(&directory).then_some((version, directory))
    });
    found
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, directory)| directory)
}

fn on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let direct = std::env::split_paths(&path).find(|directory| is_complete(directory));
    direct.or_else(|| {
        let output = Command::new("pg_config").arg("--bindir").output().ok()?;
        let directory = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
        is_complete(&directory).then_some(directory)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_complete_version_wins() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (version, programs) in [
            ("9.6", &["initdb", "postgres"][..]),
            ("15", &["initdb", "postgres"]),
            ("17", &["psql"]),
        ] {
            let bin = directory.path().join(version).join("bin");
            fs::create_dir_all(&bin).expect("writable");
            for program in programs {
                fs::write(bin.join(program), "").expect("writable");
            }
        }
        assert_eq!(newest_in(directory.path()), Some(directory.path().join("15/bin")));
        assert_eq!(newest_in(Path::new("/nonexistent")), None);
    }
}
