//! Refusals of what is right in form: bounds that are reached, names that are taken, what is over.

use crate::{
    harness::{Harness, normal},
    rows,
};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sqlx::query;
use std::collections::BTreeMap;
use uuid::Uuid;

#[tokio::test]
async fn what_is_refused_says_why_and_what_to_do() {
    let api = Harness::start().await;
    let deployment = api.deployment().await;
    let app = api.get(&format!("/deployments/{deployment}")).await.json()["application_id"].clone();
    let app = app.as_str().expect("an id");
    // As many as there may be.
    for full in [
        "INSERT INTO api_keys (id, user_id, name, prefix, hash)
         SELECT gen_random_uuid(), u.id, 'x', 'zk_', sha256(n::text::bytea) FROM users u, generate_series(1, 99) AS n",
        "INSERT INTO webhooks (id, organization_id, url, events, secret)
         SELECT gen_random_uuid(), o.id, 'https://zectre.invalid/', '{app.created}', '' FROM organizations o, generate_series(1, 50)",
        "INSERT INTO environments (id, application_id, slug)
         SELECT gen_random_uuid(), a.id, 'e' || n FROM applications a, generate_series(1, 98) AS n",
        "UPDATE deployments SET status = 'failed'",
    ] {
        query(full).execute(&api.pool).await.expect("valid");
    }
    let mut seen = Vec::new();
    for (path, body, status, code) in [
        (
            "/orgs".to_owned(),
            json!({ "slug": "default" }),
            409,
            "ORGANIZATION_EXISTS",
        ),
        (
            "/namespaces".into(),
            json!({ "name": "default" }),
            409,
            "NAMESPACE_EXISTS",
        ),
        ("/apps".into(), json!({ "name": "hello" }), 409, "APP_EXISTS"),
        (
            "/api-keys".into(),
            json!({ "name": "more" }),
            409,
            "TOO_MANY_API_KEYS",
        ),
        (
            "/webhooks".into(),
            json!({ "url": "https://zectre.invalid/" }),
            409,
            "TOO_MANY_WEBHOOKS",
        ),
        (
            format!("/apps/{app}/environments"),
            json!({ "slug": "more" }),
            409,
            "TOO_MANY_ENVIRONMENTS",
        ),
    ] {
        let answer = api.post(&path, body).await.expect(status);
        assert_eq!(answer.code(), code);
        seen.push(normal(&answer.json()));
    }
    for (what, code) in [
        ("cancel", "DEPLOYMENT_FINISHED"),
        ("rollback", "NOTHING_TO_ROLL_BACK_TO"),
    ] {
        let answer = api
            .act(&format!("/deployments/{deployment}/{what}"))
            .await
            .expect(409);
        assert_eq!(answer.code(), code);
        seen.push(normal(&answer.json()));
    }
    insta::assert_json_snapshot!("refusals", seen);
    api.stop().await;
}

/// What the refused calls name.
struct Scene {
    api: Harness,
    app: String,
    deployment: Uuid,
    announced: String,
    used: String,
    build: String,
    node: Uuid,
    ended: Uuid,
    hook: String,
    viewer: (Uuid, String),
    reader: String,
    begun: Value,
    admin: String,
}

impl Scene {
    async fn set() -> Self {
        let api = Harness::start_with(
            "auth.signup = 'invite'\napi.body_bytes_max = 2000\nquotas.applications_max = 1",
        )
        .await;
        let made = async |path: &str, body: Value| api.post(path, body).await.expect(201).json();
        let id = |made: Value| made["id"].as_str().expect("an id").to_owned();
        let deployment = api.deployment().await;
        let app = api.get(&format!("/deployments/{deployment}")).await.json()["application_id"].clone();
        let app = app.as_str().expect("an id").to_owned();
        let used = api.artifact("some bytes").await;
        let deploy = json!({ "artifact_id": used, "environment": "production" });
        made(&format!("/apps/{app}/deployments"), deploy).await;
        let path = format!("/apps/{app}/builds");
        let build = api.request(Method::POST, &path).header("X-API-Key", &api.admin);
        let build = build.header("Content-Type", "application/gzip").body("x");
        let build = api.send(build).await.expect(201).id();
        api.act(&format!("/builds/{build}/cancel")).await.expect(202);
        let node = rows::node(&api.pool).await;
        rows::task(&api.pool, deployment, Some(node), "running").await;
        let ended = rows::task(&api.pool, deployment, None, "stopped").await;
        let viewer = rows::user(&api.pool, false).await;
        let default = default_organization(&api).await;
        rows::member(&api.pool, viewer.0, default, "viewer").await;
        let domain = json!({ "domain": "shop.example.com" });
        made(&format!("/apps/{app}/custom-domains"), domain).await;
        let hook = json!({ "url": "https://zectre.invalid/", "events": ["domain.*"] });
        let reader = json!({ "name": "reads", "scopes": ["read"] });
        made("/orgs", json!({ "slug": "acme" })).await;
        let admin = id(api.get("/user").await.json());
        let begun = api.post("/auth/cli/initiate", json!({})).await.json();
        Self {
            announced: id(made("/artifacts", json!({ "name": "x" })).await),
            hook: id(made("/webhooks", hook).await),
            reader: made("/api-keys", reader).await["key"]
                .as_str()
                .expect("a key")
                .to_owned(),
            app,
            deployment,
            used,
            build,
            node,
            ended,
            viewer,
            begun,
            admin,
            api,
        }
    }

    /// By the admin.
    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.api
            .request(method, path)
            .header("X-API-Key", &self.api.admin)
    }

    fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.call(Method::POST, path).json(body)
    }

    fn of_app(&self, rest: &str) -> String {
        format!("/apps/{}{rest}", self.app)
    }

    /// What is sent wrong, or by whom it may not be.
    fn of_the_caller(&self) -> Vec<(RequestBuilder, &'static str)> {
        let anyone = |path: &str| self.api.request(Method::POST, path);
        let stranger = json!({ "email": "eve@example.org", "password": "long enough" });
        let reset = json!({ "token": "zr_guess", "new_password": "long enough" });
        let code = json!({ "device_code": self.begun["device_code"] });
        let forged = format!("sha256={}", "0".repeat(64));
        let event = |signature: &str| {
            let call = anyone("/webhooks/github").header("Content-Type", "application/json");
            let call = call
                .header("X-GitHub-Event", "push")
                .header("X-GitHub-Delivery", "one");
            call.header("X-Hub-Signature-256", signature).body("{")
        };
        let invitation = |email: &str| self.post("/orgs/default/invitations", &json!({ "email": email }));
        let app = json!({ "name": "other" });
        let large = json!({ "name": "x", "description": "x".repeat(2_000) });
        let by = |key: &str| {
            self.api
                .request(Method::POST, "/apps")
                .header("X-API-Key", key)
                .json(&app)
        };
        vec![
            (invitation("nobody"), "INVALID_EMAIL"),
            (anyone("/auth/reset-password").json(&reset), "INVALID_RESET_TOKEN"),
            (anyone("/auth/cli/token").json(&code), "AUTHORIZATION_PENDING"),
            (
                anyone("/auth/cli/token").json(&json!({ "device_code": "zd_guess" })),
                "DEVICE_CODE_EXPIRED",
            ),
            (
                self.post(&self.of_app("/deployments"), &json!({})),
                "NOTHING_TO_DEPLOY",
            ),
            (
                self.post("/apps", &app).header("Idempotency-Key", ""),
                "INVALID_IDEMPOTENCY_KEY",
            ),
            (
                self.call(Method::GET, "/events/stream")
                    .header("Last-Event-ID", "x"),
                "INVALID_LAST_EVENT_ID",
            ),
            (event(&forged), "INVALID_WEBHOOK"),
            (event("sha256="), "INVALID_SIGNATURE"),
            (anyone("/apps").json(&app), "UNAUTHENTICATED"),
            (anyone("/auth/login").json(&stranger), "INVALID_CREDENTIALS"),
            (by(&self.viewer.1), "FORBIDDEN"),
            (by(&self.reader), "INSUFFICIENT_SCOPE"),
            (anyone("/auth/signup").json(&stranger), "INVITATION_REQUIRED"),
            (self.call(Method::PUT, "/apps"), "METHOD_NOT_ALLOWED"),
            (self.post("/apps", &large), "BODY_TOO_LARGE"),
        ]
    }

    /// What names something that is not there.
    fn of_what_is_not_there(&self) -> Vec<(RequestBuilder, &'static str)> {
        let nowhere = Uuid::nil();
        let deploy = |body: Value| self.post(&self.of_app("/deployments"), &body);
        let get = |path: String| self.call(Method::GET, &path);
        let delete = |path: String| self.call(Method::DELETE, &path);
        let delivery = format!("/webhooks/{}/deliveries/{nowhere}/redeliver", self.hook);
        let code = json!({ "user_code": "BBBB-BBBB" });
        vec![
            (
                deploy(json!({ "image": "nginx", "environment": "nowhere" })),
                "ENVIRONMENT_NOT_FOUND",
            ),
            (deploy(json!({ "build_id": nowhere })), "BUILD_NOT_FOUND"),
            (deploy(json!({ "artifact_id": nowhere })), "ARTIFACT_NOT_FOUND"),
            (get(format!("/deployments/{nowhere}")), "DEPLOYMENT_NOT_FOUND"),
            (get(format!("/tasks/{nowhere}")), "TASK_NOT_FOUND"),
            (get(format!("/nodes/{nowhere}")), "NODE_NOT_FOUND"),
            (get("/orgs/nowhere/quota".into()), "ORGANIZATION_NOT_FOUND"),
            (
                self.call(Method::POST, &format!("/users/{nowhere}/disable")),
                "USER_NOT_FOUND",
            ),
            (
                delete(format!("/orgs/default/members/{nowhere}")),
                "MEMBER_NOT_FOUND",
            ),
            (
                self.post("/invitations/accept", &json!({ "token": "zi_guess" })),
                "INVITATION_NOT_FOUND",
            ),
            (self.post("/auth/cli/approve", &code), "USER_CODE_NOT_FOUND"),
            (delete(format!("/api-keys/{nowhere}")), "API_KEY_NOT_FOUND"),
            (
                delete(self.of_app("/custom-domains/other.example.com")),
                "DOMAIN_NOT_FOUND",
            ),
            (get(format!("/webhooks/{nowhere}")), "WEBHOOK_NOT_FOUND"),
            (self.call(Method::POST, &delivery), "DELIVERY_NOT_FOUND"),
            (get(self.of_app("/source")), "SOURCE_NOT_FOUND"),
            (delete(self.of_app("/env/NOTHING")), "VARIABLE_NOT_FOUND"),
        ]
    }

    /// What can't be done as things stand.
    fn of_the_state_of_things(&self) -> Vec<(RequestBuilder, &'static str)> {
        let deploy = |body: Value| self.post(&self.of_app("/deployments"), &body);
        let act = |path: String| self.call(Method::POST, &path);
        let delete = |path: String| self.call(Method::DELETE, &path);
        let production = json!({ "slug": "production" });
        let domain = json!({ "domain": "shop.example.com" });
        let upload = format!("/artifacts/{}/upload", self.used);
        let more = json!({ "name": "more" });
        vec![
            (
                deploy(json!({ "artifact_id": self.announced })),
                "ARTIFACT_NOT_READY",
            ),
            (deploy(json!({ "build_id": self.build })), "BUILD_NOT_USABLE"),
            (act(format!("/builds/{}/cancel", self.build)), "BUILD_FINISHED"),
            (
                self.post(&self.of_app("/environments"), &production),
                "ENVIRONMENT_EXISTS",
            ),
            (
                delete(self.of_app("/environments/production")),
                "ENVIRONMENT_PROTECTED",
            ),
            (
                self.post(&self.of_app("/custom-domains"), &domain),
                "DOMAIN_EXISTS",
            ),
            (self.call(Method::POST, &upload).body("x"), "ARTIFACT_IMMUTABLE"),
            (delete(format!("/artifacts/{}", self.used)), "ARTIFACT_IN_USE"),
            (
                self.post(&self.of_app("/builds"), &json!({})),
                "SOURCE_NOT_CONNECTED",
            ),
            (
                act(format!("/deployments/{}/sleep", self.deployment)),
                "DEPLOYMENT_NOT_USABLE",
            ),
            (act(format!("/tasks/{}/stop", self.ended)), "TASK_FINISHED"),
            (delete(format!("/nodes/{}", self.node)), "NODE_IN_USE"),
            (self.post("/apps", &more), "QUOTA_EXCEEDED"),
            (act(format!("/users/{}/disable", self.admin)), "LAST_ADMIN"),
            (delete(format!("/orgs/acme/members/{}", self.admin)), "LAST_OWNER"),
        ]
    }
}

async fn default_organization(api: &Harness) -> Uuid {
    let id = sqlx::query_scalar("SELECT id FROM organizations WHERE slug = 'default'");
    id.fetch_one(&api.pool).await.expect("it is there")
}

/// One of each code; the words are part of the product.
#[tokio::test]
async fn a_refusal_of_each_kind_is_as_it_was() {
    let scene = Scene::set().await;
    let (mut seen, mut wrong) = (BTreeMap::new(), Vec::new());
    for (request, code) in [
        scene.of_the_caller(),
        scene.of_what_is_not_there(),
        scene.of_the_state_of_things(),
    ]
    .into_iter()
    .flatten()
    {
        let answer = scene.api.send(request).await;
        if answer.status.is_success() || answer.code() != code {
            wrong.push((code, answer.text));
        } else {
            assert!(
                seen.insert(code, normal(&answer.json())).is_none(),
                "{code} twice"
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    insta::assert_json_snapshot!("refusal_of_each_code", seen);
    scene.api.stop().await;
}
