//! A forge of the tests' own: one private repository, served by git's own HTTP backend.

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

/// What opens the repository.
pub const FORGE_TOKEN: &str = "ghs_s3cr3t";

/// A forge with one repository, `acme/shop`, for those with [`FORGE_TOKEN`].
#[derive(Debug)]
pub struct Forge {
    /// Its URL, with a slash at the end.
    pub url: String,
    directory: TempDir,
    _serving: JoinSet<()>,
}

#[derive(Debug)]
struct Serving {
    root: PathBuf,
    login: String,
}

impl Forge {
    /// Starts it, with a repository that has no commit yet.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let serving = Serving {
            root: directory.path().join("served"),
            login: format!(
                "Basic {}",
                STANDARD.encode(format!("x-access-token:{FORGE_TOKEN}"))
            ),
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

    /// Runs git in a directory below the forge's; what it printed.
    pub fn git(&self, arguments: &[&str], at: &str) -> String {
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

    /// Commits files on the branch that is checked out, and publishes the repository; the commit.
    pub fn commit(&self, files: &[(&str, &str)]) -> String {
        let work = self.work();
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

    /// Serves what is committed.
    pub fn publish(&self) {
        let served = self.directory.path().join("served/acme/shop.git");
        let _ = fs::remove_dir_all(&served);
        self.git(
            &["clone", "--quiet", "--bare", "work", "served/acme/shop.git"],
            ".",
        );
    }

    /// Where the next commit is made from.
    pub fn work(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    /// The repository's URL.
    pub fn repository(&self) -> String {
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
