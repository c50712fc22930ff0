//! Sources and the calls of forges: signed as GitHub does it.

mod pull_request;
mod push;
mod source;
mod strangers;

use crate::harness::{Answer, Harness};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use std::sync::OnceLock;
use uuid::Uuid;
use zectre_common::time::Time;
use zectre_service::key::to_hex;

const REPOSITORY: &str = "https://github.com/acme/shop";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const SECRET: &str = "a-secret-of-the-forge";

/// An API with an application whose source is the repository; its calls are signed with the secret.
struct Connected {
    api: Harness,
    app: String,
}

impl Connected {
    async fn start() -> Self {
        Self::start_with("", json!({})).await
    }

    /// With lines of configuration, and with what else is to be said of the source.
    async fn start_with(config: &str, more: Value) -> Self {
        let api = Harness::start_with(config).await;
        let app = api.app("shop").await;
        let this = Self { api, app };
        this.connect(REPOSITORY, more).await;
        this
    }

    async fn connect(&self, repository: &str, more: Value) {
        let mut source = json!({ "repository": repository, "webhook_secret": SECRET });
        let fields = more.as_object().expect("an object").clone();
        source.as_object_mut().expect("an object").extend(fields);
        connect(&self.api, &self.app, source).await.expect(200);
    }

    /// What a signed call with a new id came to for the application.
    async fn send(&self, event: &str, payload: &Value) -> Value {
        let answer = call(&self.api, SECRET, event, &fresh(), payload).await;
        answer.expect(202).json()["results"][0].clone()
    }

    async fn builds(&self) -> Vec<Value> {
        builds(&self.api, &self.app).await
    }
}

async fn connect(api: &Harness, app: &str, body: Value) -> Answer {
    let path = format!("/apps/{app}/source");
    api.call(&api.admin, Method::PUT, &path, Some(body)).await
}

pub(crate) fn signature(secret: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(body.as_bytes());
    format!("sha256={}", to_hex(&mac.finalize().into_bytes()))
}

/// A call as GitHub sends it.
async fn call(api: &Harness, secret: &str, event: &str, delivery: &str, payload: &Value) -> Answer {
    let body = payload.to_string();
    let signature = signature(secret, &body);
    call_with(api, event, delivery, &signature, &body).await
}

async fn call_with(api: &Harness, event: &str, delivery: &str, signature: &str, body: &str) -> Answer {
    let request = api
        .request(Method::POST, "/webhooks/github")
        .header("Content-Type", "application/json")
        .header("X-GitHub-Event", event)
        .header("X-GitHub-Delivery", delivery)
        .header("X-Hub-Signature-256", signature);
    api.send(request.body(body.to_owned())).await
}

fn fresh() -> String {
    Uuid::now_v7().to_string()
}

fn repository() -> Value {
    json!({ "clone_url": "https://github.com/Acme/Shop.git", "full_name": "Acme/Shop" })
}

pub(crate) fn push(branch: &str, commit: &str) -> Value {
    json!({ "ref": format!("refs/heads/{branch}"), "after": commit, "repository": repository(), "sender": { "login": "ann" } })
}

/// A second of GitHub's clock, the same for all tests of one run: what happened long ago is no news.
fn base_secs() -> i64 {
    static BASE: OnceLock<i64> = OnceLock::new();
    *BASE.get_or_init(|| Time::now().unix_ms() / 1_000)
}

fn pull_request(action: &str, state: &str, from: &str, secs: i64) -> Value {
    let time = Time::from_unix_ms((base_secs() + secs) * 1_000).to_string();
    json!({
        "action": action, "number": 7, "repository": repository(), "sender": { "login": "ann" },
        "pull_request": { "number": 7, "state": state, "updated_at": time,
                          "head": { "sha": COMMIT, "repo": { "full_name": from } } },
    })
}

async fn builds(api: &Harness, app: &str) -> Vec<Value> {
    let list = api
        .get(&format!("/builds?application_id={app}"))
        .await
        .expect(200)
        .json();
    list["data"].as_array().expect("a list").clone()
}
