//! Which project a directory belongs to: `.zectre/<cluster>/project.json`, looked for upwards like `.git`.

use crate::error::CliError;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use zectre_common::{id::ApplicationId, wire::app::App};

/// A directory's project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Link {
    /// Its id.
    pub(crate) project_id: ApplicationId,
    /// Its name when it was linked.
    pub(crate) name: String,
    /// Its namespace when it was linked.
    pub(crate) namespace: String,
}

impl Link {
    /// The linked directory that is meant in `directory`: itself, or the nearest linked one above it.
    pub(crate) fn root(directory: &Path, api_url: &str) -> Option<PathBuf> {
        let directory = fs::canonicalize(directory).ok()?;
        let linked = directory
            .ancestors()
            .find(|parent| file_in(parent, api_url).is_file());
        linked.map(Path::to_owned)
    }

    /// The link of `directory` itself.
    pub(crate) fn of(directory: &Path, api_url: &str) -> Result<Option<Self>, CliError> {
        let is_linked = file_in(directory, api_url).is_file();
        if is_linked {
            Self::find(directory, api_url)
        } else {
            Ok(None)
        }
    }

    /// The link of `directory` or the nearest one above it.
    pub(crate) fn find(directory: &Path, api_url: &str) -> Result<Option<Self>, CliError> {
        let directory = fs::canonicalize(directory).map_err(CliError::read(directory))?;
        for parent in directory.ancestors() {
            let path = file_in(parent, api_url);
            match fs::read_to_string(&path) {
                Ok(text) => {
                    return serde_json::from_str(&text).map(Some).map_err(|error| {
                        CliError::Usage(format!(
                            "{} is damaged ({error}). Run `zectre link` again.",
                            path.display()
                        ))
                    });
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                // A directory above may well be closed to us; the project's own isn't.
                Err(_) if parent != directory => return Ok(None),
                Err(error) => return Err(CliError::read(path)(error)),
            }
        }
        Ok(None)
    }

    /// Links `directory` to `app`.
    pub(crate) fn save(directory: &Path, api_url: &str, app: &App) -> Result<(), CliError> {
        let link = Self {
            project_id: app.id,
            name: app.name.clone(),
            namespace: app.namespace.clone(),
        };
        let path = file_in(directory, api_url);
        let parent = path.parent().expect("the file has a directory by construction");
        fs::create_dir_all(parent).map_err(CliError::write(parent))?;
        // The link names things of one person's cluster: nothing to commit.
        let ignore = directory.join(".zectre").join(".gitignore");
        if !ignore.exists() {
            fs::write(&ignore, "*\n").map_err(CliError::write(&ignore))?;
        }
        let text = serde_json::to_string_pretty(&link).expect("strings are valid JSON");
        replace(parent, &path, &(text + "\n")).map_err(CliError::write(&path))
    }

    /// Takes the link of `root` away, and what was made for it; other clusters' links stay.
    pub(crate) fn remove(root: &Path, api_url: &str) -> Result<(), CliError> {
        let path = file_in(root, api_url);
        fs::remove_file(&path).map_err(CliError::write(&path))?;
        let places = path.ancestors().skip(1).take(2);
        for place in places {
            // Whatever else lies there keeps it.
            let _ = fs::remove_dir(place);
        }
        Ok(())
    }
}

/// Written beside and moved into place: another command may read it meanwhile, and must not find half of it.
fn replace(parent: &Path, path: &Path, text: &str) -> std::io::Result<()> {
    let readable = fs::Permissions::from_mode(0o644);
    let mut fresh = tempfile::Builder::new()
        .permissions(readable)
        .tempfile_in(parent)?;
    fresh.write_all(text.as_bytes())?;
    fresh.persist(path)?;
    Ok(())
}

fn file_in(directory: &Path, api_url: &str) -> PathBuf {
    directory
        .join(".zectre")
        .join(cluster(api_url))
        .join("project.json")
}

/// A directory name for a cluster: its API's host and port.
fn cluster(api_url: &str) -> String {
    let host = api_url.split_once("://").map_or(api_url, |(_, host)| host);
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' {
            c
        } else {
            '-'
        }
    };
    host.trim_end_matches('/').chars().map(plain).take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };
    use zectre_common::{spec::DeploymentRequest, time::Time};

    #[test]
    fn a_link_is_found_from_below_and_belongs_to_one_cluster() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let app = App {
            id: ApplicationId::new(),
            name: "shop".into(),
            namespace: "team".into(),
            subdomain: "shop-team".into(),
            description: String::new(),
            labels: BTreeMap::default(),
            default_deployment_spec: DeploymentRequest::default(),
            url: String::new(),
            created_at: Time::from_unix_ms(0),
            updated_at: Time::from_unix_ms(0),
        };
        Link::save(directory.path(), "http://localhost:47080", &app).expect("writable");
        let below = directory.path().join("src");
        fs::create_dir(&below).expect("writable");
        let link = Link::find(&below, "http://localhost:47080")
            .expect("readable")
            .expect("linked");
        assert_eq!((link.project_id, link.name.as_str()), (app.id, "shop"));
        assert!(
            directory
                .path()
                .join(".zectre/localhost-47080/project.json")
                .is_file()
        );
        assert_eq!(Link::find(&below, "http://elsewhere:1").expect("readable"), None);
        Link::save(directory.path(), "http://elsewhere:1", &app).expect("writable");
        let root = Link::root(&below, "http://localhost:47080").expect("linked");
        Link::remove(&root, "http://localhost:47080").expect("writable");
        assert_eq!(
            Link::find(&below, "http://localhost:47080").expect("readable"),
            None
        );
        assert!(
            Link::find(&below, "http://elsewhere:1")
                .expect("readable")
                .is_some()
        );
    }

    #[test]
    fn a_link_is_never_read_half_while_it_is_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, done) = (directory.path().join("project.json"), AtomicBool::new(false));
        let text = "x".repeat(100_000);
        replace(directory.path(), &path, &text).expect("writable");
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..200 {
                    replace(directory.path(), &path, &text).expect("writable");
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                assert_eq!(fs::read_to_string(&path).expect("readable").len(), text.len());
            }
        });
        let left = fs::read_dir(directory.path()).expect("readable").count();
        assert_eq!(left, 1, "nothing else is left there");
    }

    #[test]
    fn a_cluster_never_names_a_path() {
        assert_eq!(cluster("http://../../etc"), "------etc");
    }
}
