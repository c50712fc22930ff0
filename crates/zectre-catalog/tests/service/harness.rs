//! A catalog with a database of its own, GitHub beside it, and a browser.

use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::{fs, os::unix::fs::PermissionsExt};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use zectre_catalog::{Service, config::Config, core::pkce, secret};
use zectre_common::wire::problem::Problem;
use zectre_service::{key::ensure_key_file, tasks::Shutdown};
use zectre_testkit::{GITHUB_CLIENT_ID, GITHUB_CLIENT_SECRET, GithubServer, TestDatabase, free_port};

pub(crate) const CLI: &str = "zectre-cli";
pub(crate) const LOOPBACK: &str = "http://127.0.0.1:34567/callback";

pub(crate) struct Catalog {
    pub(crate) url: String,
    pub(crate) pool: PgPool,
    pub(crate) config: Config,
    client: reqwest::Client,
    github: GithubServer,
    shutdown: Shutdown,
    _running: JoinHandle<()>,
    _dir: TempDir,
    _database: TestDatabase,
}

/// Tokens as they were answered.
#[derive(Clone)]
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) refresh: String,
}

/// A login that a client began.
pub(crate) struct Begun {
    pub(crate) verifier: String,
    pub(crate) query: Vec<(&'static str, String)>,
}

impl Begun {
    /// As the command line begins one.
    pub(crate) fn new() -> Self {
        let verifier = secret::random();
        let query = vec![
            ("response_type", "code".into()),
            ("client_id", CLI.into()),
            ("redirect_uri", LOOPBACK.into()),
            ("code_challenge", pkce::challenge(&verifier)),
            ("code_challenge_method", "S256".into()),
            ("state", "client state".into()),
        ];
        Self { verifier, query }
    }

    /// With another value, or without the parameter.
    pub(crate) fn with(mut self, name: &'static str, value: Option<&str>) -> Self {
        self.query.retain(|(known, _)| *known != name);
        self.query.extend(value.map(|value| (name, value.to_owned())));
        self
    }
}

/// A person at GitHub; number and address follow from the name.
pub(crate) fn person(name: &str) -> Value {
    let id: u32 = name
        .bytes()
        .fold(7, |id, byte| id.wrapping_mul(31) % 1_000_000 + u32::from(byte));
    json!({
        "id": id,
        "login": name,
        "name": format!("{name} the tester"),
        "emails": [
            {"email": format!("{name}@spare.test"), "primary": false, "verified": true},
            {"email": format!("{name}@example.test"), "primary": true, "verified": true},
        ],
    })
}

impl Catalog {
    /// One that signs with Ed25519: its keys are made at once.
    pub(crate) async fn start() -> Self {
        Self::start_with("[tokens]\nalgorithm = 'EdDSA'\n").await
    }

    pub(crate) async fn start_with(more: &str) -> Self {
        let (database, github) = (TestDatabase::empty().await, GithubServer::start().await);
        let dir = tempfile::tempdir().expect("a directory");
        let (master, app) = (dir.path().join("master.key"), dir.path().join("github.secret"));
        ensure_key_file(&master).expect("written");
        fs::write(&app, GITHUB_CLIENT_SECRET).expect("written");
        fs::set_permissions(&app, fs::Permissions::from_mode(0o600)).expect("set");
        let port = free_port();
        let url = format!("http://127.0.0.1:{port}");
        let config = Config::from_toml(&format!(
            "clients = [{{ id = 'dashboard', redirect_uris = ['https://dashboard.test/callback?tenant=1'] }}]\n\
             [database]\nurl = '{}'\nconnections_max = 6\n[server]\nport = {port}\npublic_url = '{url}'\n\
             [github]\nurl = '{}'\napi_url = '{}'\nclient_id = '{GITHUB_CLIENT_ID}'\nclient_secret_file = '{}'\n\
             [secrets]\nmaster_key_file = '{}'\n{more}",
            database.url().expose_secret(),
            github.url(),
            github.url(),
            app.display(),
            master.display(),
        ))
        .expect("it is a good configuration");
        let service = Service::new(&config).await.expect("it starts");
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "the test is the supervisor: it ends with the runtime"
        )]
        let running = tokio::spawn(async move { service.run(stop).await.expect("it ends in order") });
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a plain client");
        Self {
            url,
            pool: database.pool().await,
            config,
            client,
            github,
            shutdown,
            _running: running,
            _dir: dir,
            _database: database,
        }
    }

    /// Who is signed in at GitHub from now on.
    pub(crate) async fn visitor(&self, person: &Value) {
        let url = format!("{}/test/visitor", self.github.url());
        let set = self
            .client
            .post(url)
            .body(person.to_string())
            .send()
            .await
            .expect("it answers");
        assert_eq!(set.status(), StatusCode::OK);
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.expect("it answers")
    }

    pub(crate) async fn begin(&self, begun: &Begun) -> Response {
        let request = self.request(Method::GET, "/oauth/authorize").query(&begun.query);
        request.send().await.expect("it answers")
    }

    /// What a browser does that was sent to `begun`, up to the catalog's callback: its URL, and the cookie.
    pub(crate) async fn at_github(&self, begun: &Begun) -> (Url, String) {
        let sent = self.begin(begun).await;
        assert_eq!(sent.status(), StatusCode::SEE_OTHER, "{:?}", sent.text().await);
        let cookie = cookie(&sent).expect("the login is remembered");
        let to_github = location(&sent);
        assert!(to_github.as_str().starts_with(self.github.url()), "{to_github}");
        let back = self.client.get(to_github).send().await.expect("GitHub answers");
        (location(&back), cookie)
    }

    /// The whole way, saying yes where it is asked: the address of the client that the browser ends at.
    pub(crate) async fn browse(&self, begun: &Begun) -> Url {
        let (callback, login) = self.at_github(begun).await;
        let shown = self.callback(callback, Some(&login)).await;
        if shown.status() == StatusCode::SEE_OTHER {
            return location(&shown);
        }
        let (cookie, nonce) = asked(shown).await;
        let back = self.consent(Some(&cookie), &nonce, "allow").await;
        assert_eq!(back.status(), StatusCode::SEE_OTHER, "{:?}", back.text().await);
        location(&back)
    }

    /// What the page sends that asks for a person's word.
    pub(crate) async fn consent(&self, cookie: Option<&str>, nonce: &str, decision: &str) -> Response {
        let mut request = self
            .request(Method::POST, "/oauth/consent")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form_body(&[("nonce", nonce), ("decision", decision)]));
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, cookie);
        }
        request.send().await.expect("it answers")
    }

    pub(crate) async fn callback(&self, url: Url, cookie: Option<&str>) -> Response {
        let mut request = self.client.get(url);
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, cookie);
        }
        request.send().await.expect("it answers")
    }

    /// A code of the command line, with its verifier.
    pub(crate) async fn code(&self, person: &Value) -> (String, String) {
        self.visitor(person).await;
        let begun = Begun::new();
        let end = self.browse(&begun).await;
        (param(&end, "code").expect("a code"), begun.verifier)
    }

    pub(crate) async fn token(&self, form: &[(&str, &str)]) -> (StatusCode, Value) {
        let sent = self
            .request(Method::POST, "/oauth/token")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form_body(form))
            .send()
            .await
            .expect("it answers");
        assert_eq!(sent.headers()[header::CACHE_CONTROL], "no-store");
        (sent.status(), sent.json().await.expect("JSON"))
    }

    pub(crate) async fn exchange(&self, code: &str, verifier: &str) -> (StatusCode, Value) {
        self.token(&[
            ("grant_type", "authorization_code"),
            ("client_id", CLI),
            ("redirect_uri", LOOPBACK),
            ("code", code),
            ("code_verifier", verifier),
        ])
        .await
    }

    pub(crate) async fn refresh(&self, token: &str, audience: Option<&str>) -> (StatusCode, Value) {
        let mut form = vec![
            ("grant_type", "refresh_token"),
            ("client_id", CLI),
            ("refresh_token", token),
        ];
        form.extend(audience.map(|audience| ("audience", audience)));
        self.token(&form).await
    }

    /// Signed in by the command line, for the catalog itself.
    pub(crate) async fn sign_in(&self, person: &Value) -> Tokens {
        let (code, verifier) = self.code(person).await;
        tokens(self.exchange(&code, &verifier).await)
    }

    /// One call of the API as the bearer of `token`.
    pub(crate) async fn api(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.request(method, &format!("/api/v1{path}")).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("it answers");
        let status = answer.status();
        let text = answer.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// The call must succeed with this status.
    pub(crate) async fn done(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
        status: u16,
    ) -> Value {
        let (got, answer) = self.api(token, method, path, body).await;
        assert_eq!(got.as_u16(), status, "{method} {path}: {answer}");
        answer
    }

    /// The call (`GET /path`) must be refused with this status and code (`404 NOT_FOUND`), and a sentence.
    pub(crate) async fn refused(&self, token: &str, call: &str, body: Option<Value>, expected: &str) {
        let (method, path) = call.split_once(' ').expect("a method and a path");
        let (got, answer) = self.api(token, method, path, body).await;
        let problem: Problem = serde_json::from_value(answer).expect("a problem");
        let told = format!("{} {}", got.as_u16(), problem.code);
        assert_eq!(told, expected, "{call}: {}", problem.detail);
        assert!(!problem.detail.is_empty() && problem.request_id.is_some());
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        self.shutdown.request();
    }
}

/// As a browser writes a form.
pub(crate) fn form_body(form: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(form)
        .finish()
}

/// The answer must be tokens.
pub(crate) fn tokens((status, answer): (StatusCode, Value)) -> Tokens {
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["token_type"], "Bearer");
    let text = |name: &str| answer[name].as_str().expect("a token").to_owned();
    Tokens {
        access: text("access_token"),
        refresh: text("refresh_token"),
    }
}

/// The answer must be this refusal of the token endpoint.
pub(crate) fn denied((status, answer): (StatusCode, Value), error: &str) {
    assert_eq!(
        (status, &answer["error"]),
        (StatusCode::BAD_REQUEST, &json!(error)),
        "{answer}"
    );
    assert!(
        answer["error_description"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
}

pub(crate) fn location(answer: &Response) -> Url {
    let location = answer.headers().get(header::LOCATION).expect("a redirect");
    Url::parse(location.to_str().expect("text")).expect("a whole URL")
}

pub(crate) fn cookie(answer: &Response) -> Option<String> {
    let set = answer.headers().get(header::SET_COOKIE)?.to_str().ok()?;
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Lax"), "{set}");
    set.split(';').next().map(str::to_owned)
}

/// The page that asks for a person's word: its cookie and its nonce.
pub(crate) async fn asked(shown: Response) -> (String, String) {
    assert_eq!(shown.status(), StatusCode::OK);
    let policy = shown.headers()[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .expect("text");
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    let cookies = shown.headers().get_all(header::SET_COOKIE);
    let mut cookies = cookies.iter().filter_map(|cookie| cookie.to_str().ok());
    let cookie = cookies
        .find(|cookie| cookie.starts_with("zectre-consent="))
        .expect("it is remembered");
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().expect("a pair").to_owned();
    let page = shown.text().await.expect("text");
    let (_, rest) = page.split_once("name=nonce value=\"").expect("a nonce");
    (cookie, rest.split('"').next().expect("quoted").to_owned())
}

pub(crate) fn param(url: &Url, name: &str) -> Option<String> {
    url.query_pairs()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// What a token says, unchecked.
pub(crate) fn claims(token: &str) -> Value {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let payload = token.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64")).expect("JSON")
}
