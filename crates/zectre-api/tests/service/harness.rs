//! An API on a port of its own, over a database of its own, beside listeners that stand where the other
//! services are.

use crate::upstream::Upstream;
use reqwest::{Method, RequestBuilder, StatusCode, header::HeaderMap};
use secrecy::ExposeSecret;
use serde_json::Value;
use sqlx::PgPool;
use std::{path::PathBuf, time::Duration};
use tempfile::TempDir;
use uuid::Uuid;
use zectre_api::{Service, bootstrap};
use zectre_common::config::Config;
use zectre_service::{
    key::{Keys, ensure_key_file},
    tasks::{Shutdown, Tasks},
};
use zectre_testkit::TestDatabase;

/// A running API.
pub(crate) struct Harness {
    pub(crate) pool: PgPool,
    pub(crate) upstream: Upstream,
    /// The API key of the cluster's admin.
    pub(crate) admin: String,
    pub(crate) keys: Keys,
    pub(crate) token_key_file: PathBuf,
    http: reqwest::Client,
    base: String,
    shutdown: Shutdown,
    tasks: Tasks,
    pub(crate) config: Config,
    service: Running,
    _directory: TempDir,
    // Last: the database is dropped after everything that uses it.
    _database: TestDatabase,
}

/// The API itself, which may be stopped and started again.
struct Running {
    shutdown: Shutdown,
    tasks: Tasks,
}

impl Running {
    /// Starts it; where it listens.
    async fn start(config: &Config) -> (Self, String) {
        let service = Service::new(config).await.expect("the service starts");
        let base = format!("http://{}", service.address());
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        let stop = shutdown.clone();
        tasks.spawn("api", move |_| async move {
            service.run(stop).await.expect("the service runs");
        });
        (Self { shutdown, tasks }, base)
    }

    async fn stop(&self) {
        self.shutdown.request();
        self.tasks.stop(Duration::from_secs(10)).await;
    }
}

/// An answer, read whole.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// Its JSON; `null` when it has no body.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        if self.text.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The stable code of a problem.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        assert_eq!(
            self.headers["content-type"], "application/problem+json",
            "{}",
            self.text
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16(), "{problem}");
        assert!(
            problem["request_id"].is_string()
                && problem["detail"].as_str().is_some_and(|text| !text.is_empty())
        );
        problem["code"].as_str().expect("a problem has a code").to_owned()
    }

    /// It refuses with this code, in the words of the snapshot `refusal_CODE`: for a refusal that takes a scene of its own.
    #[track_caller]
    pub(crate) fn shows(&self, code: &str) {
        assert_eq!(self.code(), code, "{}", self.text);
        let mut shown = normal(&self.json());
        let detail = shown["detail"].as_str().expect("words");
        shown["detail"] = slugs_hidden(&seconds_hidden(detail)).into();
        insta::assert_json_snapshot!(format!("refusal_{code}"), shown);
    }

    /// The same answer, if it has this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }

    /// The id of the answered resource.
    #[track_caller]
    pub(crate) fn id(&self) -> String {
        self.json()["id"]
            .as_str()
            .expect("a resource has an id")
            .to_owned()
    }
}

impl Harness {
    /// Starts one with the default configuration.
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts one with more configuration: lines such as `api.port = 1`.
    pub(crate) async fn start_with(overrides: &str) -> Self {
        let database = TestDatabase::create().await;
        let pool = database.pool().await;
        let directory = tempfile::tempdir().expect("the temporary directory is writable");
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        let file = |name: &str| {
            let path = directory.path().join(name);
            ensure_key_file(&path).expect("the temporary directory is writable");
            path
        };
        let (service, token, master) = (file("service"), file("token"), file("master"));
        let config = |upstream: &str| {
            let scheduler = if overrides.contains("scheduler.public_url") {
                String::new()
            } else {
                format!("scheduler.public_url = {upstream:?}\n")
            };
            format!(
                "secrets.service_key_file = '{}'\nsecrets.token_key_file = '{}'\nsecrets.master_key_file = '{}'\n\
                 database.url = {:?}\n{scheduler}registry.public_url = {upstream:?}\n\
                 build.public_url = {upstream:?}\napi.port = 0\n{overrides}",
                service.display(),
                token.display(),
                master.display(),
                database.url().expose_secret()
            )
        };
        let config_without =
            Config::load_with(None, &config("http://127.0.0.1:1")).expect("the configuration is valid");
        let keys = Keys::load(&config_without.secrets).expect("the keys were just made");
        let upstream = Upstream::start(
            &tasks,
            &shutdown,
            pool.clone(),
            keys.service().expect("was just made"),
        )
        .await;
        let config = Config::load_with(None, &config(&upstream.url)).expect("the configuration is valid");
        let (service, base) = Running::start(&config).await;
        let admin = bootstrap::ensure_admin(&pool)
            .await
            .expect("the database is migrated");
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            .build()
            .expect("fixed settings");
        Self {
            pool,
            upstream,
            admin: admin.api_key.expose_secret().to_owned(),
            keys,
            token_key_file: token,
            http,
            base,
            shutdown,
            tasks,
            config,
            service,
            _directory: directory,
            _database: database,
        }
    }

    /// A request with nobody's credential.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let prefix = if path.starts_with("/docs") || path.starts_with("/ready") {
            ""
        } else {
            "/api/v1"
        };
        self.http.request(method, format!("{}{prefix}{path}", self.base))
    }

    /// A request for a page beside the API.
    pub(crate) fn page(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// Host and port that it listens on.
    pub(crate) fn authority(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// Sends it and reads the answer.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("the service answers");
        let (status, headers) = (response.status(), response.headers().clone());
        Answer {
            status,
            headers,
            text: response.text().await.expect("the answer is text"),
        }
    }

    /// A call with an API key.
    pub(crate) async fn call(&self, key: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self.request(method, path).header("X-API-Key", key);
        self.send(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    /// GET by the admin.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(&self.admin, Method::GET, path, None).await
    }

    /// POST by the admin.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(&self.admin, Method::POST, path, Some(body)).await
    }

    /// POST without a body, by the admin.
    pub(crate) async fn act(&self, path: &str) -> Answer {
        self.call(&self.admin, Method::POST, path, None).await
    }

    /// An application made by the admin; its id.
    pub(crate) async fn app(&self, name: &str) -> String {
        self.post("/apps", serde_json::json!({ "name": name }))
            .await
            .expect(201)
            .id()
    }

    /// A deployment of an application `hello`, waiting for a node; its id.
    pub(crate) async fn deployment(&self) -> Uuid {
        let app = self.app("hello").await;
        let image = serde_json::json!({ "image": "nginx" });
        let made = self.post(&format!("/apps/{app}/deployments"), image).await;
        made.expect(201).id().parse().expect("an id")
    }

    /// A ready artifact in `default`; its id.
    pub(crate) async fn artifact(&self, bytes: &str) -> String {
        let id = self
            .post("/artifacts", serde_json::json!({ "name": "hello" }))
            .await
            .expect(201)
            .id();
        let upload = self
            .request(Method::POST, &format!("/artifacts/{id}/upload"))
            .header("X-API-Key", &self.admin);
        self.send(upload.body(bytes.to_owned())).await.expect(200);
        id
    }

    /// Stops the API and leaves the rest as it is.
    pub(crate) async fn stop_service(&self) {
        self.service.stop().await;
    }

    /// Starts the API again, on another port.
    pub(crate) async fn start_service(&mut self) {
        (self.service, self.base) = Running::start(&self.config).await;
    }

    /// Stops everything in order.
    pub(crate) async fn stop(self) {
        self.service.stop().await;
        self.shutdown.request();
        self.tasks.stop(Duration::from_secs(10)).await;
        self.pool.close().await;
    }
}

/// The value with what differs from run to run made equal: ids, times, hosts' random parts, ports.
pub(crate) fn normal(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), normal_field(key, value)))
            .collect(),
        Value::Array(items) => items.iter().map(normal).collect(),
        other => other.clone(),
    }
}

fn normal_field(key: &str, value: &Value) -> Value {
    match value {
        Value::String(_) if key == "request_id" => "[request id]".into(),
        Value::String(_) if key.ends_with("_at") || key == "time" => "[time]".into(),
        Value::String(_) if key == "token" || key == "key" || key == "prefix" => "[secret]".into(),
        Value::String(text) if key.starts_with("preview") => hex_hidden(text).into(),
        Value::String(text) => uuids_hidden(text).into(),
        other => normal(other),
    }
}

fn hex_hidden(text: &str) -> String {
    let random = |part: &str| part.len() == 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let first = text.split('.').next().unwrap_or(text);
    match first.rsplit_once('-') {
        Some((_, hex)) if random(hex) => text.replacen(hex, "[hex]", 1),
        _ => text.to_owned(),
    }
}

fn uuids_hidden(text: &str) -> String {
    let is_uuid = |part: &str| part.len() == 36 && part.bytes().filter(|b| *b == b'-').count() == 4;
    let pieces = text.split_inclusive([' ', '/', ';', '?', ',', '`']);
    pieces
        .map(|piece| {
            let bare = piece.trim_end_matches([' ', '/', ';', '?', ',', '`']);
            if is_uuid(bare) {
                piece.replacen(bare, "[id]", 1)
            } else {
                piece.to_owned()
            }
        })
        .collect()
}

/// How long something takes is not the same on each machine.
fn seconds_hidden(text: &str) -> String {
    let words: Vec<_> = text.split(' ').collect();
    let unit = |n: usize| {
        words
            .get(n)
            .is_some_and(|word| word.trim_end_matches([',', ';', '.']) == "s")
    };
    let shown = words.iter().enumerate().map(|(n, word)| {
        let secs = word.parse::<u64>().is_ok() && unit(n + 1);
        if secs { "[n]" } else { *word }
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// Slugs of organizations that `rows` made.
fn slugs_hidden(text: &str) -> String {
    let is_one = |part: &str| {
        let hex = part.strip_prefix('o').unwrap_or_default();
        hex.len() == 12 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let parts: Vec<_> = text
        .split('`')
        .map(|part| if is_one(part) { "[slug]" } else { part })
        .collect();
    parts.join("`")
}
