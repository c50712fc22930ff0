//! An application of a test, from its creation to its answers.

use crate::{Http, http::send};
use flate2::{Compression, write::GzEncoder};
use reqwest::Method;
use serde_json::{Value, json};
use std::{path::Path, time::Duration};
use zectre_testkit::wait_until;

/// How a rollout ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The deployment as the API shows it.
    pub deployment: Value,
}

impl Outcome {
    /// Its id.
    pub fn id(&self) -> &str {
        self.deployment["id"].as_str().expect("a deployment has an id")
    }

    /// Its status.
    pub fn status(&self) -> &str {
        self.deployment["status"]
            .as_str()
            .expect("a deployment has a status")
    }

    /// Panics, showing all that is known, unless it succeeded.
    #[expect(clippy::return_self_not_must_use, reason = "it's an assertion too")]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.status(), "succeeded", "{:#}", self.deployment);
        self
    }

    /// The reason code, once it is sure that it failed.
    pub fn failed(&self) -> &str {
        assert_eq!(self.status(), "failed", "{:#}", self.deployment);
        self.deployment["reason"]
            .as_str()
            .expect("a failure has a reason")
    }
}

/// An application.
#[derive(Debug, Clone)]
pub struct App {
    http: Http,
    /// Its id.
    pub id: String,
    /// Its label under the platform domain.
    pub subdomain: String,
}

/// The longest a rollout may take in a test on a busy machine.
const ROLLOUT_DEADLINE: Duration = Duration::from_secs(120);

impl App {
    /// A new application in the namespace `default`.
    pub async fn create(http: &Http, name: &str) -> Self {
        let app = http.post("/apps", json!({"name": name})).await.expect(201);
        let text = |field: &str| app[field].as_str().expect("an application has it").to_owned();
        Self {
            http: http.clone(),
            id: text("id"),
            subdomain: text("subdomain"),
        }
    }

    /// The same application through another client.
    #[must_use]
    pub fn with(&self, http: &Http) -> Self {
        Self {
            http: http.clone(),
            ..self.clone()
        }
    }

    /// Uploads an executable; gives the artifact's id.
    pub async fn upload(&self, program: &Path) -> String {
        let artifact = self
            .http
            .post("/artifacts", json!({"name": "program"}))
            .await
            .expect(201);
        let id = artifact["id"].as_str().expect("an artifact has an id").to_owned();
        let bytes = std::fs::read(program).expect("the program was compiled");
        let upload = self
            .http
            .request(Method::POST, &format!("/api/v1/artifacts/{id}/upload"))
            .body(bytes);
        let status = send(upload).await.status;
        assert!(status.is_success(), "the upload was refused: {status}");
        id
    }

    /// Asks for a deployment with this request; gives its id.
    pub async fn deploy(&self, request: Value) -> String {
        let answer = self
            .http
            .post(&format!("/apps/{}/deployments", self.id), request)
            .await;
        assert!(answer.status.is_success(), "{}", answer.text());
        answer.json()["id"]
            .as_str()
            .expect("a deployment has an id")
            .to_owned()
    }

    /// Deploys an executable to production and waits until the rollout has ended.
    pub async fn deploy_program(&self, program: &Path, mut request: Value) -> Outcome {
        request["artifact_id"] = self.upload(program).await.into();
        if request["environment"].is_null() {
            request["environment"] = "production".into();
        }
        let id = self.deploy(request).await;
        self.outcome(&id).await
    }

    /// Waits until the rollout of a deployment has ended.
    pub async fn outcome(&self, deployment: &str) -> Outcome {
        let deployment = wait_until(ROLLOUT_DEADLINE, "the rollout ends", async || {
            let deployment = self.deployment(deployment).await;
            let open = ["pending", "running"].contains(&deployment["status"].as_str()?);
            (!open).then_some(deployment)
        })
        .await;
        Outcome { deployment }
    }

    /// A deployment as the API shows it now.
    pub async fn deployment(&self, deployment: &str) -> Value {
        self.http
            .get(&format!("/deployments/{deployment}"))
            .await
            .expect(200)
    }

    /// Waits until a deployment is as described.
    pub async fn wait_for(&self, deployment: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        wait_until(ROLLOUT_DEADLINE, what, async || {
            let deployment = self.deployment(deployment).await;
            is_so(&deployment).then_some(deployment)
        })
        .await
    }

    /// The tasks of a deployment in one of these states.
    pub async fn tasks(&self, deployment: &str, states: &[&str]) -> Vec<Value> {
        let page = self
            .http
            .get(&format!("/deployments/{deployment}/tasks?page_size=100"))
            .await
            .expect(200);
        let tasks = page["data"].as_array().expect("a page has data");
        tasks
            .iter()
            .filter(|task| states.iter().any(|state| task["state"] == *state))
            .cloned()
            .collect()
    }

    /// Waits until as many tasks run.
    pub async fn wait_running(&self, deployment: &str, count: usize) -> Vec<Value> {
        wait_until(ROLLOUT_DEADLINE, &format!("{count} tasks run"), async || {
            let running = self.tasks(deployment, &["running"]).await;
            (running.len() == count).then_some(running)
        })
        .await
    }

    /// Waits until it sleeps and nothing of it is left. What is put to sleep answers until its task is told to stop, so
    /// that only from then on a request has to wake it.
    pub async fn wait_asleep(&self, deployment: &str) {
        self.wait_for(deployment, "it sleeps", |deployment| {
            deployment["health"] == "asleep"
        })
        .await;
        wait_until(ROLLOUT_DEADLINE, "its tasks have ended", async || {
            let live = self.tasks(deployment, &["pending", "starting", "running", "stopping"]);
            live.await.is_empty().then_some(())
        })
        .await;
    }

    /// Uploads sources; gives the id of their build.
    pub async fn start_build(&self, archive: Vec<u8>) -> String {
        let path = format!("/api/v1/apps/{}/builds", self.id);
        let request = self
            .http
            .request(Method::POST, &path)
            .header("content-type", "application/gzip")
            .body(archive);
        let answer = send(request).await;
        assert!(answer.status.is_success(), "{}", answer.text());
        answer.json()["id"]
            .as_str()
            .expect("a build has an id")
            .to_owned()
    }

    /// Uploads sources and waits until the build has ended.
    pub async fn build(&self, archive: Vec<u8>) -> Value {
        let id = self.start_build(archive).await;
        wait_until(Duration::from_secs(300), "the build ends", async || {
            let build = self.http.get(&format!("/builds/{id}")).await.expect(200);
            let open = ["queued", "running"].contains(&build["status"].as_str()?);
            (!open).then_some(build)
        })
        .await
    }
}

/// A gzip tar archive of these files.
pub fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, path, text.as_bytes())
            .expect("memory can be written");
    }
    builder
        .into_inner()
        .and_then(GzEncoder::finish)
        .expect("memory can be written")
}
