//! What happens before the search, in the order in which it happens.

use super::{PROGRAM, Secrets, Sinks, Things, uuid};
use reqwest::Method;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path, time::Duration};
use zectre_e2e::{App, Cli, Daemons, Http, server_program};
use zectre_testkit::wait_until;

/// Where it happens.
pub(super) struct Scene<'a> {
    pub platform: &'a Daemons,
    pub http: &'a Http,
    pub secrets: &'a Secrets,
    /// A forge and receiver of webhooks.
    pub outside: &'a str,
    /// A registry of images.
    pub images: &'a str,
    /// A webhook that is told everything.
    pub webhook: &'a str,
    pub project: &'a Path,
}

impl Scene<'_> {
    /// Deploys from source, fails in every way, is called; gives the ids of what came of it.
    pub(super) async fn play(&self, sinks: &mut Sinks) -> Things {
        let app = self.deploy_from_source(sinks).await;
        let git = self.connect_source(&app).await;
        let (failed, private) = self.fail(sinks).await;
        self.build_failed(&git).await;
        self.visit().await;
        let (deployment, task) = self.logged(&app).await;
        let deliveries = format!("/webhooks/{}/deliveries?state=delivered", self.webhook);
        wait_until(Duration::from_secs(60), "the webhook is told", async || {
            let deliveries = self.get(&deliveries).await;
            (deliveries["total"] != 0).then_some(())
        })
        .await;
        let nodes = self.get("/nodes").await;
        let node = text(&nodes["data"][0], "id");
        let artifacts = self.get("/artifacts").await;
        let artifact = text(&artifacts["data"][0], "id");
        BTreeMap::from([
            ("app", app),
            ("artifact", artifact),
            ("failed", failed),
            ("private", private),
            ("git", git),
            ("deployment", deployment),
            ("task", task),
            ("node", node),
        ])
    }

    pub(super) fn cli(&self) -> Cli {
        self.platform
            .cli()
            .env("ZECTRE_API_KEY", &self.secrets["api key"])
    }

    async fn get(&self, path: &str) -> Value {
        self.http.get(path).await.expect(200)
    }

    async fn put(&self, path: &str, body: Value) {
        self.http.send(Method::PUT, path, body).await.expect_ok();
    }

    async fn deploy_from_source(&self, sinks: &mut Sinks) -> String {
        let (cli, project) = (self.cli(), self.project);
        fs::create_dir(project.join("src")).expect("it is ours");
        fs::write(project.join("zectre.yaml"), "name: canary\n").expect("it is ours");
        fs::write(project.join("src/main.tish"), PROGRAM).expect("it is ours");
        sinks.said("projects add", &cli.run(project, &["projects", "add"]).await);
        let add = ["env", "add", "API_TOKEN", "--secret"];
        let added = cli.run_with(project, &add, &self.secrets["variable"]).await;
        added.success();
        sinks.said("env add", &added);
        let deployed = cli.run(project, &["deploy", "--prod", "--wait"]).await;
        deployed.success();
        sinks.said("deploy", &deployed);
        let id = text(&self.get("/apps/default/canary").await, "id");
        let many = json!([{"key": "API_TOKEN", "value": self.secrets["changed variable"], "secret": true}]);
        let many = self
            .http
            .send(Method::PATCH, &format!("/apps/{id}/env"), many)
            .await;
        many.expect_ok();
        sinks.add("answers to changed variables", many.text());
        let changed =
            json!({"value": self.secrets["changed variable"], "secret": true, "environment": "production"});
        self.put(&format!("/apps/{id}/env/API_TOKEN"), changed).await;
        id
    }

    /// Gives the build that can't fetch.
    async fn connect_source(&self, app: &str) -> String {
        let source = json!({"repository": format!("{}acme/shop", self.outside), "token": self.secrets["source token"],
                            "webhook_secret": self.secrets["source webhook secret"]});
        self.put(&format!("/apps/{app}/source"), source).await;
        let build = self
            .http
            .post(&format!("/apps/{app}/builds"), json!({"git_ref": "main"}))
            .await;
        text(&build.expect(201), "id")
    }

    /// Gives the deployment that ended, and the one whose image is another's.
    async fn fail(&self, sinks: &mut Sinks) -> (String, String) {
        fs::write(self.project.join("src/main.tish"), "console.log(undefinedName)\n").expect("it is ours");
        let failed = self.cli().run(self.project, &["deploy", "--prod"]).await;
        failed.failure();
        sinks.said("deploy (failing)", &failed);
        let app = App::create(self.http, "other").await;
        let set = json!({"value": self.secrets["variable"], "secret": true});
        self.put(&format!("/apps/{}/env/KEY", app.id), set).await;
        let ended = app
            .deploy_program(&server_program(), json!({"env": {"MODE": "exit"}}))
            .await;
        assert_eq!(ended.failed(), "exited");
        let image = format!("{}/private:1", self.images);
        let private = app
            .deploy(json!({"image": image, "environment": "production"}))
            .await;
        app.outcome(&private).await.failed();
        (ended.id().to_owned(), private)
    }

    async fn build_failed(&self, build: &str) {
        wait_until(Duration::from_secs(60), "the build from git fails", async || {
            let build = self.get(&format!("/builds/{build}")).await;
            (build["status"] == "failed").then_some(())
        })
        .await;
    }

    async fn visit(&self) {
        let visitor = &self.secrets["visitor"];
        let visit = self
            .http
            .app_request(Method::GET, "canary-default", "/visited")
            .query(&[("token", visitor)]);
        let visit = visit
            .bearer_auth(visitor)
            .header("cookie", format!("session={visitor}"));
        let visit = visit
            .header("referer", format!("http://example.org/?{visitor}"))
            .header("user-agent", "canary");
        assert_eq!(visit.send().await.expect("it serves").status(), 200);
    }

    /// Waits for the log of what serves; gives its deployment and its task.
    async fn logged(&self, app: &str) -> (String, String) {
        let served = format!("/apps/{app}/deployments?environment=production&status=succeeded");
        let deployment = text(&self.get(&served).await["data"][0], "id");
        let tasks = self.get(&format!("/deployments/{deployment}/tasks")).await;
        let task = text(&tasks["data"][0], "id");
        wait_until(Duration::from_secs(60), "the log is stored", async || {
            let log = self.get(&format!("/tasks/{task}/logs")).await.to_string();
            log.contains("request").then_some(())
        })
        .await;
        (deployment, task)
    }
}

fn text(answer: &Value, field: &str) -> String {
    answer[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {answer}"))
        .to_owned()
}

/// Makes what the platform shows once; gives the ids of what has them.
pub(super) async fn shown_once(http: &Http, outside: &str, secrets: &mut Secrets) -> Things {
    let post = async |path: &str, body: Value| {
        let request = http.request(Method::POST, &format!("/api/v1{path}"));
        // What is kept for a repetition is searched too.
        let request = request.header("idempotency-key", uuid()).json(&body);
        request
            .send()
            .await
            .expect("an answer")
            .json::<Value>()
            .await
            .expect("JSON")
    };
    let key = post("/api-keys", json!({"name": "canary"})).await;
    secrets.insert("api key", text(&key, "key"));
    let user = json!({"email": "ann@example.org", "password": secrets["password"]});
    let user = post("/auth/signup", user.clone()).await;
    let user_id = user["id"]
        .as_str()
        .or(user["user"]["id"].as_str())
        .expect("an id")
        .to_owned();
    let login = json!({"email": "ann@example.org", "password": secrets["password"]});
    secrets.insert("login token", text(&post("/auth/login", login).await, "token"));
    let reset = http
        .post(&format!("/users/{user_id}/reset-password"), json!({}))
        .await;
    secrets.insert("reset token", text(&reset.expect(201), "token"));
    let invitation = post(
        "/orgs/default/invitations",
        json!({"email": "bob@example.org", "role": "viewer"}),
    )
    .await;
    secrets.insert("invitation", text(&invitation, "token"));
    let join = post("/nodes/join-tokens", json!({})).await;
    secrets.insert("join token", text(&join, "token"));
    let device = post("/auth/cli/initiate", json!({"device_name": "canary"})).await;
    secrets.insert("device code", text(&device, "device_code"));
    let hook = post(
        "/webhooks",
        json!({"url": format!("{outside}hook"), "events": ["*"]}),
    )
    .await;
    let secret = text(&hook, "secret");
    secrets.insert("webhook secret", secret.trim_start_matches("whsec_").to_owned());
    BTreeMap::from([("user", user_id), ("webhook", text(&hook, "id"))])
}

/// What is refused must not be quoted where it may be a secret.
pub(super) async fn wrong_requests(http: &Http, secrets: &Secrets, things: &Things, sinks: &mut Sinks) {
    for (method, path, body) in refused(secrets, things) {
        let request = http
            .request(method.clone(), &format!("/api/v1{path}"))
            .json(&body);
        let status = sinks.answer("answers to wrong requests", request).await;
        assert!(status.is_client_error(), "{method} {path}: {status}");
    }
    let not_json = http.request(Method::PUT, &format!("/api/v1/apps/{}/env/KEY", things["app"]));
    let not_json = not_json
        .header("content-type", "application/json")
        .body(format!("{{\"value\": {}}}", secrets["variable"]));
    sinks.answer("answers to wrong requests", not_json).await;
    for path in ["/apps", "/events/stream"] {
        let stranger = http.with_key(&format!("{}x", secrets["api key"]));
        let request = stranger
            .request(Method::GET, &format!("/api/v1{path}"))
            .query(&[("sort_by", &secrets["variable"])]);
        assert!(
            sinks
                .answer("answers to wrong keys", request)
                .await
                .is_client_error()
        );
    }
}

fn refused(secrets: &Secrets, things: &Things) -> Vec<(Method, String, Value)> {
    let (secret, password) = (&secrets["variable"], &secrets["password"]);
    let env = format!("/apps/{}/env", things["app"]);
    let source = format!("/apps/{}/source", things["app"]);
    let key = format!("{env}/KEY");
    let login = "/auth/login".to_owned();
    vec![
        (
            Method::PUT,
            key.clone(),
            json!({"value": secret, "secret": secret}),
        ),
        (
            Method::PUT,
            key.clone(),
            json!({"value": {"is": secret}, "secret": true}),
        ),
        (Method::PUT, key.clone(), json!([secret])),
        (Method::PUT, key.clone(), json!(secret)),
        (
            Method::PUT,
            key,
            json!({"value": secret, "environment": "nowhere", "secret": true}),
        ),
        (Method::PATCH, env, json!({"set": secret, "variables": secret})),
        (
            Method::PUT,
            source.clone(),
            json!({"repository": format!("https://{secret}@example.org/a/b")}),
        ),
        (
            Method::PUT,
            source,
            json!({"repository": "https://example.org/a/b", "previews": secrets["source token"]}),
        ),
        (
            Method::POST,
            login.clone(),
            json!({"email": "ann@example.org", "password": format!("{password}x")}),
        ),
        (
            Method::POST,
            login.clone(),
            json!({"email": [password], "password": password}),
        ),
        (Method::POST, login, json!({"email": password, "password": "x"})),
        (
            Method::POST,
            "/auth/cli/token".into(),
            json!({"device_code": [secrets["device code"]]}),
        ),
        (
            Method::POST,
            "/auth/signup".into(),
            json!({"email": "x", "password": password, "name": {"n": password}}),
        ),
    ]
}
