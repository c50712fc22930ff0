//! Builds from a repository, served by git's own HTTP backend.

use crate::harness::Yard;
use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue, StatusCode, header};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::TcpListener, task::JoinSet};
use zectre_common::{id::BuildId, state::BuildStatus};
use zectre_service::{key::Keys, seal};

const TOKEN: &str = "ghs_s3cr3t";

/// A forge with one repository, `acme/shop`, for those with the token.
struct Forge {
    url: String,
    directory: TempDir,
    _serving: JoinSet<()>,
}

struct Serving {
    root: PathBuf,
    login: String,
}

impl Forge {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let serving = Serving {
            root: directory.path().join("served"),
            login: format!("Basic {}", STANDARD.encode(format!("x-access-token:{TOKEN}"))),
        };
        fs::create_dir_all(serving.root.join("acme")).expect("ours");
        let router = Router::new().fallback(cgi).with_state(Arc::new(serving));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            axum::serve(listener, router).await.expect("it serves");
        });
        let forge = Self {
            url,
            directory,
            _serving: tasks,
        };
        forge.git(&["init", "--quiet", "--initial-branch=main", "work"], ".");
        forge
    }

    fn git(&self, arguments: &[&str], at: &str) -> String {
        let output = Command::new("git")
            .args([
                "-c",
                "user.name=t",
                "-c",
                "user.email=t@example.org",
                "-c",
                "commit.gpgsign=false",
            ])
            .args(arguments)
            .current_dir(self.directory.path().join(at))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .expect("git is installed: apt-get install git");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Commits files and publishes the repository; the commit.
    fn commit(&self, files: &[(&str, &str)]) -> String {
        let work = self.directory.path().join("work");
        for (name, content) in files {
            let path = work.join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("ours");
            fs::write(path, content).expect("ours");
        }
        self.git(&["add", "--all"], "work");
        self.git(&["commit", "--quiet", "--message=x"], "work");
        self.publish();
        self.git(&["rev-parse", "HEAD"], "work")
    }

    fn publish(&self) {
        let served = self.directory.path().join("served/acme/shop.git");
        let _ = fs::remove_dir_all(&served);
        self.git(
            &["clone", "--quiet", "--bare", "work", "served/acme/shop.git"],
            ".",
        );
    }

    fn repository(&self) -> String {
        format!("{}acme/shop.git", self.url)
    }
}

/// Passes a request to `git http-backend`, for whoever has the token.
async fn cgi(State(forge): State<Arc<Serving>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let text = |name: &str| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    if text("authorization") != forge.login {
        return (
            StatusCode::UNAUTHORIZED,
            [(header::WWW_AUTHENTICATE, "Basic realm=\"x\"")],
        )
            .into_response();
    }
    let body: Bytes = axum::body::to_bytes(body, 1 << 20)
        .await
        .expect("a small request");
    let mut child = tokio::process::Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", &forge.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_PROTOCOL", text("git-protocol"))
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("CONTENT_TYPE", text("content-type"))
        .env("HTTP_CONTENT_ENCODING", text("content-encoding"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git is installed");
    let mut input = child.stdin.take().expect("asked for");
    input.write_all(&body).await.expect("it reads");
    drop(input);
    let output = child.wait_with_output().await.expect("it ends");
    let at = output
        .stdout
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a head");
    let head = String::from_utf8_lossy(&output.stdout[..at]).into_owned();
    let mut response = output.stdout[at + 4..].to_vec().into_response();
    for (name, value) in head.lines().filter_map(|line| line.split_once(": ")) {
        if name == "Status" {
            *response.status_mut() = value[..3].parse().expect("a status");
        } else {
            let name: HeaderName = name.parse().expect("a name");
            response
                .headers_mut()
                .insert(name, HeaderValue::from_str(value).expect("a value"));
        }
    }
    response
}

const HELLO: &str = "console.log(\"hello from git\")\n";

async fn queue(yard: &Yard, repository: &str, reference: &str, root_dir: &str) -> BuildId {
    let id = BuildId::new();
    sqlx::query(
        "INSERT INTO builds (id, application_id, git_repository, git_ref, git_root_dir) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(id)
    .bind(yard.application)
    .bind(repository)
    .bind(reference)
    .bind(root_dir)
    .execute(&yard.pool)
    .await
    .expect("a build");
    id
}

async fn connect(yard: &Yard, repository: &str) {
    let key = Keys::load(&yard.config("").secrets)
        .expect("it is there")
        .master()
        .expect("it is set");
    let sealed = seal::seal(&key, &seal::place::source_token(yard.application), TOKEN);
    sqlx::query(
        "INSERT INTO sources (application_id, repository, repository_key, branches, credential, webhook_secret)
         VALUES ($1, $2, 'x', '{}', $3, '')",
    )
    .bind(yard.application)
    .bind(repository)
    .bind(sealed)
    .execute(&yard.pool)
    .await
    .expect("a source");
}

async fn commit_of(yard: &Yard, id: BuildId) -> Option<String> {
    sqlx::query_scalar("SELECT git_commit FROM builds WHERE id = $1")
        .bind(id)
        .fetch_one(&yard.pool)
        .await
        .expect("the database is there")
}

fn sources(forge: &Forge) -> String {
    format!("git_sources = [{:?}]", forge.url)
}

#[tokio::test]
async fn a_commit_of_a_private_repository_is_built() {
    let forge = Forge::start().await;
    let first = forge.commit(&[
        ("services/hello/src/main.tish", HELLO),
        (
            ".gitmodules",
            "[submodule \"x\"]\n\tpath = x\n\turl = http://127.0.0.1:1/x\n",
        ),
    ]);
    forge.commit(&[("services/hello/src/main.tish", "this is no program (\n")]);
    let yard = Yard::new().await;
    connect(&yard, &forge.repository()).await;
    let worker = yard.start(&sources(&forge)).await;
    let id = queue(&yard, &forge.repository(), &first, "services/hello").await;
    let build = yard.ended(id).await;
    let log = yard.log_text(id).await;
    assert_eq!(build.status, BuildStatus::Succeeded, "{log}");
    assert!(
        log.contains(&format!("commit {first}")) && !log.contains(TOKEN),
        "{log}"
    );
    assert_eq!(build.git.and_then(|git| git.commit), Some(first));
    // The branch's newest is broken, so it was the named one that was built.
    let newest = queue(&yard, &forge.repository(), "main", "services/hello").await;
    assert_eq!(yard.ended(newest).await.status, BuildStatus::Failed);
    assert!(commit_of(&yard, newest).await.is_some());
    worker.stop().await;
}

#[tokio::test]
async fn what_can_not_be_fetched_is_said() {
    let forge = Forge::start().await;
    forge.commit(&[("src/main.tish", HELLO)]);
    std::os::unix::fs::symlink("/etc/passwd", forge.directory.path().join("work/link")).expect("ours");
    forge.commit(&[]);
    let yard = Yard::new().await;
    let worker = yard.start(&sources(&forge)).await;
    let repository = forge.repository();
    // Nobody has given a token yet.
    let private = queue(&yard, &repository, "main", "").await;
    let ended = yard.ended(private).await;
    assert_eq!(ended.status, BuildStatus::Failed);
    let message = ended.message.expect("a sentence");
    assert!(message.contains("needs a token"), "{message}");
    connect(&yard, &repository).await;
    for (repository, reference, root_dir, words) in [
        (repository.as_str(), "nothing", "", "could not fetch"),
        (repository.as_str(), "main", "nowhere", "no directory `nowhere`"),
        (repository.as_str(), "main", "", "a symbolic link"),
        (
            repository.as_str(),
            "--upload-pack=touch /tmp/x",
            "",
            "no branch, tag",
        ),
        (
            "http://127.0.0.1:1/acme/shop.git",
            "main",
            "",
            "build.git_sources",
        ),
    ] {
        let id = queue(&yard, repository, reference, root_dir).await;
        let ended = yard.ended(id).await;
        let message = ended.message.unwrap_or_default();
        assert!(
            ended.status == BuildStatus::Failed && message.contains(words),
            "{reference} {root_dir}: {message}"
        );
    }
    worker.stop().await;
}
