//! A registry with a database and a store of its own, and a client that speaks as the API.

use reqwest::{Body, Method, RequestBuilder, StatusCode};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use std::{fs, time::SystemTime};
use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinHandle};
use zectre_common::{config::Config, id::ArtifactId, wire::problem::Problem};
use zectre_registry::{Service, blobs::Blobs, sweep};
use zectre_service::{
    key::{Keys, ServiceKey, ensure_key_file, to_hex},
    tasks::Shutdown,
    token,
};
use zectre_testkit::TestDatabase;

pub(crate) struct Registry {
    pub(crate) key: ServiceKey,
    base: String,
    token: String,
    client: reqwest::Client,
    pool: PgPool,
    dir: TempDir,
    shutdown: Shutdown,
    _running: JoinHandle<()>,
    _database: TestDatabase,
}

impl Registry {
    pub(crate) async fn start(artifact_bytes_max: u64) -> Self {
        let database = TestDatabase::create().await;
        let dir = tempfile::tempdir().expect("a directory");
        let key_file = dir.path().join("service.key");
        ensure_key_file(&key_file).expect("written");
        let overrides = format!(
            "[database]\nurl = {:?}\nconnections_max = 4\n[registry]\nport = 0\nstore = '{}'\nartifact_bytes_max = {artifact_bytes_max}\n\
             [secrets]\nservice_key_file = '{}'\nmetrics_token_file = '{}'\n",
            database.url().expose_secret(),
            dir.path().join("store").display(),
            key_file.display(),
            zectre_testkit::metrics_token_file(dir.path()).display(),
        );
        let config = Config::load_with(None, &overrides).expect("it is a good configuration");
        let key = Keys::load(&config.secrets)
            .expect("they are there")
            .service()
            .expect("it is set");
        let service = Service::new(&config).await.expect("it starts");
        let base = format!("http://{}", service.address());
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "the test is the supervisor: it ends with the runtime"
        )]
        let running = tokio::spawn(async move { service.run(stop).await.expect("it ends in order") });
        let token = token::mint_service(&key, token::name::API, token::name::REGISTRY);
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a plain client");
        let pool = database.pool().await;
        Self {
            key,
            base,
            token,
            client,
            pool,
            dir,
            shutdown,
            _running: running,
            _database: database,
        }
    }

    pub(crate) async fn announce(&self, name: &str) -> ArtifactId {
        let id = ArtifactId::new();
        sqlx::query(
            "INSERT INTO artifacts (id, organization_id, name, kind, content_type)
             SELECT $1, id, $2, 'binary', 'application/octet-stream' FROM organizations WHERE slug = 'default'",
        )
        .bind(id)
        .bind(name)
        .execute(&self.pool)
        .await
        .expect("announced");
        id
    }

    /// State, hash and size.
    pub(crate) async fn row(&self, id: ArtifactId) -> (String, Option<String>, Option<i64>) {
        sqlx::query_as("SELECT state, sha256, size_bytes FROM artifacts WHERE id = $1")
            .bind(id)
            .fetch_one(&self.pool)
            .await
            .expect("it is there")
    }

    pub(crate) async fn delete_row(&self, id: ArtifactId) {
        sqlx::query("DELETE FROM artifacts WHERE id = $1")
            .bind(id)
            .execute(&self.pool)
            .await
            .expect("deleted");
    }

    pub(crate) fn upload(&self, id: ArtifactId, body: impl Into<Body>) -> RequestBuilder {
        self.post(&format!("/api/v1/artifacts/{id}/upload"), Some(&self.token))
            .body(body)
    }

    pub(crate) fn post(&self, path: &str, token: Option<&str>) -> RequestBuilder {
        let request = self.client.request(Method::POST, format!("{}{path}", self.base));
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.anonymous(path).bearer_auth(&self.token)
    }

    pub(crate) fn head(&self, path: &str) -> RequestBuilder {
        self.client
            .head(format!("{}{path}", self.base))
            .bearer_auth(&self.token)
    }

    pub(crate) fn anonymous(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.base))
    }

    /// The request must be refused with this status and code, and a sentence.
    pub(crate) async fn refused(&self, request: RequestBuilder, status: StatusCode, code: &str) {
        let answer = request.send().await.expect("it answers");
        let got = answer.status();
        let problem: Problem = answer.json().await.expect("a problem");
        assert_eq!((got, problem.code.as_str()), (status, code), "{}", problem.detail);
        assert!(!problem.detail.is_empty() && problem.request_id.is_some());
        let store = self.dir.path().display().to_string();
        assert!(
            !problem.detail.contains(&store),
            "a path leaked: {}",
            problem.detail
        );
    }

    /// The request is refused with this code, in the words of the snapshot `refusal_CODE`.
    pub(crate) async fn shows(&self, request: RequestBuilder, code: &str) {
        let answer = request.send().await.expect("it answers");
        let mut problem: Problem = answer.json().await.expect("a problem");
        assert_eq!(problem.code, code, "{}", problem.detail);
        problem.request_id = problem.request_id.map(|_| "[request id]".to_owned());
        insta::assert_json_snapshot!(format!("refusal_{code}"), problem);
    }

    pub(crate) fn left_in_tmp(&self) -> usize {
        fs::read_dir(self.dir.path().join("store/tmp"))
            .expect("it is there")
            .count()
    }

    /// How many contents the store has.
    pub(crate) fn stored(&self) -> usize {
        let shards = fs::read_dir(self.dir.path().join("store/sha256")).expect("it is there");
        shards
            .map(|shard| {
                fs::read_dir(shard.expect("readable").path())
                    .expect("readable")
                    .count()
            })
            .sum()
    }

    pub(crate) fn lose(&self, sha256: &str) {
        fs::remove_file(
            self.dir
                .path()
                .join("store/sha256")
                .join(&sha256[..2])
                .join(sha256),
        )
        .expect("it was there");
    }

    pub(crate) async fn sweep(&self, before: SystemTime) -> usize {
        let blobs = Blobs::open(&self.dir.path().join("store")).expect("it opens");
        sweep::round(&blobs, &self.pool, before).await.expect("it sweeps")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shutdown.request();
    }
}

pub(crate) fn hex(content: &[u8]) -> String {
    to_hex(&Sha256::digest(content))
}

/// A body that is sent piece by piece.
pub(crate) fn channel() -> (mpsc::Sender<Vec<u8>>, Body) {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>(1);
    let pieces = futures_util::stream::unfold(receiver, async |mut receiver| {
        receiver
            .recv()
            .await
            .map(|piece| (Ok::<_, std::io::Error>(piece), receiver))
    });
    (sender, Body::wrap_stream(pieces))
}

/// The resident memory of this process.
pub(crate) fn resident_bytes() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages: usize = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("a number");
    pages * 4096
}
