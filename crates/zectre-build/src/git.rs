//! Fetches one commit of a repository, as an archive that is unpacked with the same suspicion as an uploaded one.
//!
//! `git` runs in the sandbox, with a network and nothing else: its own empty repository, no hooks, no configuration of
//! the machine, no submodules, no redirects, one commit deep. No shell is involved, and nothing of the repository is ever
//! checked out: `git archive` writes a tar file.

use crate::{
    core::verdict::Outcome,
    log::Log,
    sandbox::{GIT_DIR, Sandbox},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use std::{
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};
use zectre_common::{git, state::Reason};

/// The repository in its directory.
const REPOSITORY: &str = "repository";
/// The archive beside it.
const ARCHIVE: &str = "source.tar";
/// Where the fetched commit is kept.
const FETCHED: &str = "refs/zectre/fetched";
/// A slow forge sends a repository's files within this.
const FETCH_DEADLINE: Duration = Duration::from_secs(300);
/// What is local is quick.
const LOCAL_DEADLINE: Duration = Duration::from_secs(60);
/// What is told of git's complaint.
const COMPLAINT_CHARS_MAX: usize = 300;

/// What is to be fetched.
#[derive(Debug, Clone)]
pub struct GitSource {
    /// Its URL.
    pub repository: String,
    /// A branch, a tag or a commit.
    pub reference: String,
    /// The project's directory in it; empty is its root.
    pub root_dir: String,
}

/// Fetches from repositories.
#[derive(Debug, Clone)]
pub struct Fetcher {
    /// What URLs begin with (`build.git_sources`).
    pub allowed: Vec<String>,
    /// The largest file git may write (`build.unpacked_bytes_max`).
    pub file_bytes_max: u64,
}

impl Fetcher {
    /// Fetches into the empty directory `dir`; the archive, and the commit that it holds.
    pub async fn fetch(
        &self,
        sandbox: &Sandbox,
        source: &GitSource,
        token: Option<&SecretString>,
        dir: &Path,
        log: &Log,
    ) -> Result<(PathBuf, String), Outcome> {
        let refused = |message: String| Outcome::refused(Reason::InvalidSource, message);
        // The cluster may have changed its mind since the build was queued.
        git::check_repository(&source.repository, &self.allowed)
            .map_err(|why| refused(format!("`{}` is not fetched: {why}", source.repository)))?;
        if !git::is_ref(&source.reference) || !git::is_directory(&source.root_dir) {
            return Err(refused(
                "the build names no branch, tag, commit or directory of a repository".into(),
            ));
        }
        log.say(format!("fetching {} of {}", source.reference, source.repository))
            .await;
        let run = Run {
            fetcher: self,
            sandbox,
            dir,
            source,
            token,
        };
        let at = sandbox.git_path(dir);
        let repository = at.join(REPOSITORY).display().to_string();
        run.git(
            &["init", "--quiet", "--bare", "--template=", "--", &repository],
            LOCAL_DEADLINE,
        )
        .await?;
        let git_dir = format!("--git-dir={repository}");
        let wanted = format!("{}:{FETCHED}", source.reference);
        let fetch = [
            git_dir.as_str(),
            "fetch",
            "--quiet",
            "--depth=1",
            "--no-tags",
            "--no-recurse-submodules",
            "--no-auto-gc",
            "--",
            &source.repository,
            &wanted,
        ];
        run.git(&fetch, FETCH_DEADLINE).await?;
        let name = format!("{FETCHED}^{{commit}}");
        let parsed = run
            .git(&[&git_dir, "rev-parse", "--verify", &name], LOCAL_DEADLINE)
            .await?;
        let commit = String::from_utf8_lossy(&parsed.stdout).trim().to_owned();
        if !git::is_commit(&commit) {
            return Err(Outcome::Broken("git names no commit".into()));
        }
        let tree = match source.root_dir.as_str() {
            "" => commit.clone(),
            root_dir => format!("{commit}:{root_dir}"),
        };
        let output = format!("--output={}", at.join(ARCHIVE).display());
        run.git(
            &[&git_dir, "archive", "--format=tar", &output, &tree],
            LOCAL_DEADLINE,
        )
        .await
        .map_err(|outcome| match outcome {
            Outcome::Refused { .. } if !source.root_dir.is_empty() => refused(format!(
                "there is no directory `{}` in commit {commit}",
                source.root_dir
            )),
            outcome => outcome,
        })?;
        Ok((dir.join(ARCHIVE), commit))
    }
}

struct Run<'a> {
    fetcher: &'a Fetcher,
    sandbox: &'a Sandbox,
    dir: &'a Path,
    source: &'a GitSource,
    token: Option<&'a SecretString>,
}

impl Run<'_> {
    async fn git(&self, arguments: &[&str], deadline: Duration) -> Result<Output, Outcome> {
        let mut command = self.sandbox.git(self.dir, self.fetcher.file_bytes_max);
        command.args(arguments).envs(self.environment());
        let output = tokio::time::timeout(deadline, command.output())
            .await
            .map_err(|_| {
                let message = format!(
                    "git took longer than {} s; is the repository that large?",
                    deadline.as_secs()
                );
                Outcome::refused(Reason::BuildTimeout, message)
            })?
            .map_err(|error| Outcome::Broken(format!("git does not start: {error}")))?;
        if output.status.success() {
            return Ok(output);
        }
        Err(complaint(
            &self.source.repository,
            &String::from_utf8_lossy(&output.stderr),
        ))
    }

    /// All of git's configuration. The token stands here and not among the arguments, which everyone may read.
    fn environment(&self) -> Vec<(String, String)> {
        let scheme = self.source.repository.split(':').next().unwrap_or_default();
        let mut settings = vec![
            ("core.hooksPath", "/dev/null".to_owned()),
            ("core.fsmonitor", "false".into()),
            ("core.symlinks", "false".into()),
            ("credential.helper", String::new()),
            ("fetch.fsckObjects", "true".into()),
            ("fetch.unpackLimit", "1".into()),
            ("gc.auto", "0".into()),
            ("http.followRedirects", "false".into()),
            ("http.lowSpeedLimit", "1000".into()),
            ("http.lowSpeedTime", "60".into()),
            ("protocol.version", "2".into()),
            // The repository of a file:// URL belongs to someone else than "nobody".
            ("safe.directory", "*".into()),
            ("submodule.recurse", "false".into()),
        ];
        if let Some(token) = self.token {
            // What GitHub, GitLab and Gitea take for tokens.
            let login = STANDARD.encode(format!("x-access-token:{}", token.expose_secret()));
            settings.push(("http.extraHeader", format!("Authorization: Basic {login}")));
        }
        let mut environment = vec![
            ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("HOME".into(), GIT_DIR.into()),
            ("LC_ALL".into(), "C".into()),
            ("GIT_CONFIG_NOSYSTEM".into(), "1".into()),
            ("GIT_CONFIG_GLOBAL".into(), "/dev/null".into()),
            ("GIT_TERMINAL_PROMPT".into(), "0".into()),
            ("GIT_ASKPASS".into(), "/bin/false".into()),
            ("GIT_ALLOW_PROTOCOL".into(), scheme.to_owned()),
            ("GIT_NO_REPLACE_OBJECTS".into(), "1".into()),
            ("GIT_CONFIG_COUNT".into(), settings.len().to_string()),
        ];
        for (n, (key, value)) in settings.into_iter().enumerate() {
            environment.push((format!("GIT_CONFIG_KEY_{n}"), key.to_owned()));
            environment.push((format!("GIT_CONFIG_VALUE_{n}"), value));
        }
        environment
    }
}

/// What git's complaint means: the repository's fault, or the network's, which may be another one next time.
fn complaint(repository: &str, stderr: &str) -> Outcome {
    const PASSING: [&str; 9] = [
        "Could not resolve host",
        "Failed to connect",
        "unable to connect",
        "Connection refused",
        "Connection reset",
        "timed out",
        "early EOF",
        "requested URL returned error: 5",
        "RPC failed",
    ];
    let said: String = stderr
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing")
        .chars()
        .filter(|c| !c.is_control())
        .take(COMPLAINT_CHARS_MAX)
        .collect();
    if stderr.contains("bwrap:") || stderr.contains("execvp") || stderr.contains("failed to execute") {
        return Outcome::Broken(format!("git can't run here ({said}): run `apt-get install git`"));
    }
    if PASSING.iter().any(|passing| stderr.contains(passing)) {
        return Outcome::Broken(format!("`{repository}` can't be reached: {said}"));
    }
    let hint = if stderr.contains("Authentication failed") || stderr.contains("could not read Username") {
        "; a private repository needs a token in the application's source"
    } else {
        ""
    };
    Outcome::refused(
        Reason::InvalidSource,
        format!("git could not fetch from `{repository}`: {said}{hint}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_tried_again_and_the_repository_is_not() {
        let passing =
            "fatal: unable to access 'https://github.com/a/b/': Could not resolve host: github.com\n";
        assert!(matches!(complaint("x", passing), Outcome::Broken(_)));
        let private = "fatal: could not read Username for 'https://github.com': terminal prompts disabled\n";
        match complaint("https://github.com/a/b", private) {
            Outcome::Refused { message, .. } => assert!(message.contains("needs a token"), "{message}"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            complaint("x", "fatal: couldn't find remote ref nothing\n"),
            Outcome::Refused { .. }
        ));
    }
}
