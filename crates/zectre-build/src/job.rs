//! The steps of one build: fetch, unpack, read the manifest, compile, store.

use crate::{
    compiler,
    core::verdict::Outcome,
    error::Error,
    git::{Fetcher, GitSource},
    log::Log,
    prepare::{Preparer, Ready},
    registry::Registry,
    sandbox::{Sandbox, View},
    source::{self, Bounds, SourceError},
    store::{
        artifacts,
        builds::{self, Claimed, Origin},
    },
};
use secrecy::SecretString;
use sqlx::PgPool;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use zectre_common::{
    id::ArtifactId,
    manifest::{Manifest, ManifestError},
    state::Reason,
    wire::build::Diagnostic,
};
use zectre_service::{ring::KeyRing, seal};

/// What every build needs.
#[derive(Debug, Clone)]
pub struct Workshop {
    /// The rows.
    pub pool: PgPool,
    /// The bytes.
    pub registry: Registry,
    /// The walls.
    pub sandbox: Arc<Sandbox>,
    /// The compiler.
    pub preparer: Preparer,
    /// Where sources are unpacked.
    pub work_dir: PathBuf,
    /// What a source may hold.
    pub bounds: Bounds,
    /// The bytes that an organization without a quota of its own may store; 0 is no limit.
    pub quota_bytes_max: u64,
    /// How long a build may take once the compiler is ready.
    pub timeout: Duration,
    /// Commits.
    pub fetcher: Fetcher,
    /// Opens tokens of private repositories.
    pub master_key: Option<KeyRing>,
}

impl Workshop {
    /// Builds; the outcome of everything that can go wrong is the error.
    pub async fn build(&self, claimed: &Claimed, log: &Log) -> Result<ArtifactId, Outcome> {
        // First of all: it tells the next worker what this one had, should it be killed.
        let dir = Arc::new(self.directory(claimed)?);
        let ready = self.preparer.ready(log).await;
        let ready = ready.map_err(|reason| Outcome::refused(Reason::BuildWorkerFailed, reason))?;
        if let Some(weakness) = self.sandbox.weakness() {
            log.say(format!("this build has no memory limit: {weakness}"))
                .await;
        }
        let built = tokio::time::timeout(self.timeout, self.steps(claimed, &dir, &ready, log)).await;
        built.unwrap_or_else(|_| {
            let message = format!(
                "the build took longer than {} s (build.timeout_secs)",
                self.timeout.as_secs()
            );
            Err(Outcome::refused(Reason::BuildTimeout, message))
        })
    }

    /// The build's own directory, named by the claim.
    fn directory(&self, claimed: &Claimed) -> Result<Place, Outcome> {
        let name = claimed.claim().name();
        let mut builder = tempfile::Builder::new();
        let dir = builder.prefix(&name).rand_bytes(0).tempdir_in(&self.work_dir);
        dir.map(|dir| Place(Some(dir))).map_err(|source| {
            broken(&Error::WorkDir {
                path: self.work_dir.clone(),
                source,
            })
        })
    }

    async fn steps(
        &self,
        claimed: &Claimed,
        dir: &Arc<Place>,
        ready: &Ready,
        log: &Log,
    ) -> Result<ArtifactId, Outcome> {
        let project = self.fetch(claimed, dir, log).await?;
        let entry = entry(&project)?;
        log.say(format!("compiling {entry}")).await;
        let program = self.compile(claimed, ready, dir, &project, &entry, log).await?;
        log.say(format!(
            "storing the program ({:.1} MB)",
            program.size as f64 / 1e6
        ))
        .await;
        self.store(claimed, &program).await
    }

    async fn fetch(&self, claimed: &Claimed, dir: &Arc<Place>, log: &Log) -> Result<PathBuf, Outcome> {
        let (archive, target) = (dir.path().join("source"), dir.path().join("project"));
        let archive = match &claimed.origin {
            Origin::Archive(source) => {
                log.say("fetching the source").await;
                self.registry.download(*source, &archive).await?;
                archive
            }
            Origin::Git(source) => self.fetch_commit(claimed, source, dir, log).await?,
        };
        let (bounds, held) = (self.bounds, Arc::clone(dir));
        let unpacked = tokio::task::spawn_blocking(move || {
            // A build that is given up meanwhile does not take the directory away from under this.
            let _held = held;
            fs::create_dir(&target).map_err(SourceError::Disk)?;
            let root = source::unpack(&archive, &target, bounds)?;
            fs::remove_file(&archive).map_err(SourceError::Disk)?;
            Ok(root)
        });
        match unpacked.await {
            Ok(Ok(root)) => Ok(root),
            Ok(Err(SourceError::Refused(message))) => Err(Outcome::refused(Reason::InvalidSource, message)),
            Ok(Err(error)) => Err(Outcome::Broken(error.to_string())),
            Err(_) => Err(Outcome::Broken("unpacking the source failed inside".into())),
        }
    }

    async fn fetch_commit(
        &self,
        claimed: &Claimed,
        source: &GitSource,
        dir: &Place,
        log: &Log,
    ) -> Result<PathBuf, Outcome> {
        let at = dir.path().join("git");
        fs::create_dir(&at)
            .map_err(|source| Error::WorkDir {
                path: at.clone(),
                source,
            })
            .and_then(|()| self.sandbox.give(&at))
            .map_err(|error| broken(&error))?;
        let token = self.token(claimed, &source.repository).await?;
        let (archive, commit) = self
            .fetcher
            .fetch(&self.sandbox, source, token.as_ref(), &at, log)
            .await?;
        log.say(format!("commit {commit}")).await;
        builds::fetched(&self.pool, claimed, &commit)
            .await
            .map_err(|error| broken(&error))?;
        Ok(archive)
    }

    /// The token of the application's source, when that is still this repository.
    async fn token(&self, claimed: &Claimed, repository: &str) -> Result<Option<SecretString>, Outcome> {
        let sealed = builds::token(&self.pool, claimed.application, repository)
            .await
            .map_err(|error| broken(&error))?;
        let Some(sealed) = sealed else { return Ok(None) };
        let key = self.master_key.as_ref().ok_or_else(|| {
            Outcome::Broken("the repository's token can't be opened: set secrets.master_key_file".into())
        })?;
        seal::open(key, &seal::place::source_token(claimed.application), &sealed)
            .map(Some)
            .map_err(|error| Outcome::Broken(format!("the repository's token: {error}")))
    }

    async fn compile(
        &self,
        claimed: &Claimed,
        ready: &Ready,
        dir: &Place,
        project: &Path,
        entry: &str,
        log: &Log,
    ) -> Result<compiler::Program, Outcome> {
        let output = dir.path().join("output");
        fs::create_dir(&output)
            .map_err(|source| Error::WorkDir {
                path: output.clone(),
                source,
            })
            .and_then(|()| self.sandbox.give(&output))
            .map_err(|error| broken(&error))?;
        let view = View {
            compiler: &ready.compiler,
            sysroot: &ready.sysroot,
            cache: &ready.cache,
            project,
            output: &output,
        };
        let begun = Instant::now();
        let name = claimed.claim().name();
        let compiled = compiler::compile(&self.sandbox, view, entry, &name, log).await;
        tracing::info!(build = %claimed.id, elapsed_ms = begun.elapsed().as_millis() as u64, ok = compiled.is_ok(), "compiled");
        if matches!(compiled, Err(Outcome::Broken(_))) {
            self.preparer.look_again();
        }
        compiled
    }

    async fn store(&self, claimed: &Claimed, program: &compiler::Program) -> Result<ArtifactId, Outcome> {
        let id = ArtifactId::new();
        let announced = artifacts::announce(
            &self.pool,
            claimed.application,
            id,
            program.size,
            self.quota_bytes_max,
        );
        announced.await.map_err(|error| broken(&error))?.map_err(|full| {
            let message = format!(
                "the program has {} bytes, and the organization uses {} of {} artifact_bytes; delete artifacts that nothing \
                 needs, or ask an admin of the cluster for more",
                program.size, full.used, full.allowed
            );
            Outcome::refused(Reason::QuotaExceeded, message)
        })?;
        let stored = self.registry.upload(id, program).await;
        if stored.is_err()
            && let Err(error) = artifacts::withdraw(&self.pool, id).await
        {
            tracing::warn!(artifact = %id, %error, "an announced artifact stays without content");
        }
        stored.map(|()| id)
    }
}

/// A build's directory, which goes with the last of those who work in it. It may hold tens of thousands of files: they go on a
/// thread that nobody waits for, whichever way the build ends.
struct Place(Option<TempDir>);

impl Place {
    fn path(&self) -> &Path {
        self.0.as_ref().expect("it goes in `drop` alone").path()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let dir = self.0.take();
        // Without a runtime nobody waits for this thread either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(dir));
        }
    }
}

fn broken(error: &Error) -> Outcome {
    Outcome::Broken(error.to_string())
}

/// What to compile: the manifest's entry, which must be there.
fn entry(project: &Path) -> Result<String, Outcome> {
    let manifest = Manifest::load_dir(project).map_err(|error| invalid_manifest(&error))?;
    let entry = manifest.entry().trim_start_matches("./").to_owned();
    if project.join(&entry).is_file() {
        return Ok(entry);
    }
    let message = if let Some(image) = manifest.image() {
        format!(
            "zectre.yaml names the image {image}, so there is nothing to build: deploy it with `zectre deploy --image {image}`"
        )
    } else if project.join("Dockerfile").is_file() {
        "a Dockerfile isn't built here: build the image, push it to a registry, and deploy it with \
         `zectre deploy --image NAME`"
            .to_owned()
    } else {
        format!(
            "there is no {entry} in the source: add it, or name the program's first file in build.source of zectre.yaml"
        )
    };
    Err(Outcome::refused(Reason::InvalidSource, message))
}

fn invalid_manifest(error: &ManifestError) -> Outcome {
    let place = |at: u32| Some(at).filter(|at| *at > 0);
    let diagnostic = Diagnostic {
        file: Some(error.file.clone()),
        line: place(error.line),
        column: place(error.column),
        message: error.message.clone(),
        hint: error
            .nearest
            .as_ref()
            .map(|nearest| format!("did you mean `{nearest}`?")),
    };
    Outcome::Refused {
        reason: Reason::InvalidSource,
        message: error.to_string(),
        diagnostics: vec![diagnostic],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(files: &[(&str, &str)]) -> TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            fs::write(path, content).expect("written");
        }
        dir
    }

    fn refusal(files: &[(&str, &str)]) -> (String, Vec<Diagnostic>) {
        match entry(project(files).path()) {
            Err(Outcome::Refused {
                reason: Reason::InvalidSource,
                message,
                diagnostics,
            }) => (message, diagnostics),
            other => panic!("it must be refused, not {other:?}"),
        }
    }

    #[test]
    fn a_build_that_is_given_up_holds_no_thread_of_the_runtime_up() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(1)
            .build()
            .expect("it starts");
        let (release, released) = std::sync::mpsc::channel::<()>();
        runtime.block_on(async {
            // The only thread for what blocks has something else to do: what is to go now has to wait for it.
            let other = tokio::task::spawn_blocking(move || released.recv());
            let dir = project(&[("a", "")]);
            let path = dir.path().to_owned();
            let place = Arc::new(Place(Some(dir)));
            let given_up = async {
                let _place = place;
                std::future::pending::<()>().await;
            };
            let ended = tokio::time::timeout(Duration::ZERO, given_up);
            assert!(ended.await.is_err());
            assert!(path.exists(), "it was removed where everybody waits");
            release.send(()).expect("it is waited for");
            other.await.expect("it ends").expect("it was told");
            tokio::task::spawn_blocking(|| ())
                .await
                .expect("after what was before it");
            assert!(!path.exists());
        });
    }

    #[test]
    fn the_manifest_names_the_entry() {
        assert_eq!(
            entry(project(&[("src/main.tish", "")]).path()),
            Ok("src/main.tish".into())
        );
        let named = project(&[
            ("zectre.yaml", "build:\n  source: ./app.tish\n"),
            ("app.tish", ""),
        ]);
        assert_eq!(entry(named.path()), Ok("app.tish".into()));
    }

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        assert!(refusal(&[("readme", "")]).0.contains("no src/main.tish"));
        assert!(
            refusal(&[("Dockerfile", "FROM scratch")])
                .0
                .contains("a Dockerfile isn't built here")
        );
        assert!(
            refusal(&[("zectre.yaml", "deploy:\n  image: nginx\n")])
                .0
                .contains("--image nginx")
        );
    }

    #[test]
    fn a_broken_manifest_is_shown_with_its_place() {
        let (message, diagnostics) = refusal(&[
            ("zectre.yaml", "name: a\nbuidl:\n  source: x\n"),
            ("src/main.tish", ""),
        ]);
        assert!(
            message.starts_with("zectre.yaml:2:1:") && message.contains("`build`"),
            "{message}"
        );
        assert_eq!(
            (diagnostics[0].file.as_deref(), diagnostics[0].line),
            (Some("zectre.yaml"), Some(2))
        );
    }
}
