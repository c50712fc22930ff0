//! What the paths of the document name, for tests that call all of them.

use crate::{harness::Harness, rows};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

/// The things of one organization that paths name.
pub(crate) struct Things {
    pub(crate) organization: rows::Organization,
    pub(crate) app: String,
    pub(crate) deployment: String,
    pub(crate) task: Uuid,
    pub(crate) node: Uuid,
    artifact: String,
    build: String,
    api_key: Uuid,
    webhook: String,
    delivery: Uuid,
    /// A viewer of the organization, and an account.
    member: Uuid,
    invitation: String,
}

impl Things {
    pub(crate) async fn make(api: &Harness, api_key: Uuid) -> Self {
        Self::make_those(api, api_key, |_| true).await
    }

    /// What a call of this path needs to find, and no more: hundreds of calls get things of their own.
    pub(crate) async fn make_for(api: &Harness, api_key: Uuid, template: &str) -> Self {
        let named = thing_of(template);
        Self::make_those(api, api_key, |kind| match kind {
            "apps" => ["apps", "deployments", "tasks", "builds"].contains(&named),
            "deployments" => ["deployments", "tasks"].contains(&named),
            "source" => template.ends_with("/source"),
            "users" => ["users", "orgs"].contains(&named),
            kind => kind == named,
        })
        .await
    }

    /// Those that are wanted; a path that names another one has no id there, and the call fails.
    async fn make_those(api: &Harness, api_key: Uuid, wanted: impl Fn(&str) -> bool) -> Self {
        let mut things = Self {
            organization: rows::organization(&api.pool).await,
            app: String::new(),
            deployment: String::new(),
            task: Uuid::nil(),
            node: Uuid::nil(),
            artifact: String::new(),
            build: String::new(),
            api_key,
            webhook: String::new(),
            delivery: Uuid::nil(),
            member: Uuid::nil(),
            invitation: String::new(),
        };
        things.make_app(api, &wanted).await;
        let slug = things.organization.slug.clone();
        let made = async |path: &str, body: Value| api.post(path, body).await.expect(201).id();
        if wanted("nodes") || wanted("tasks") {
            things.node = rows::node(&api.pool).await;
        }
        if wanted("tasks") {
            let deployment = things.deployment.parse().expect("an id");
            things.task = rows::task(&api.pool, deployment, Some(things.node), "running").await;
        }
        if wanted("artifacts") {
            things.artifact = made("/artifacts", json!({ "name": "x", "organization": slug })).await;
        }
        if wanted("webhooks") {
            let hook =
                json!({ "url": "https://zectre.invalid/", "organization": slug, "events": ["domain.*"] });
            things.webhook = made("/webhooks", hook).await;
            things.delivery = rows::delivery(&api.pool, things.webhook.parse().expect("an id")).await;
        }
        if wanted("users") {
            (things.member, _) = rows::user(&api.pool, false).await;
            rows::member(&api.pool, things.member, things.organization.id, "viewer").await;
        }
        if wanted("orgs") {
            let guest = json!({ "email": "new@example.org" });
            things.invitation = made(&format!("/orgs/{slug}/invitations"), guest).await;
        }
        things
    }

    /// The application, and what is below it.
    async fn make_app(&mut self, api: &Harness, wanted: &impl Fn(&str) -> bool) {
        if !wanted("apps") {
            return;
        }
        let app = json!({ "name": "hello", "namespace": self.organization.slug });
        self.app = api.post("/apps", app).await.expect(201).id();
        let app = format!("/apps/{}", self.app);
        if wanted("deployments") {
            let made = api
                .post(&format!("{app}/deployments"), json!({ "image": "nginx" }))
                .await;
            self.deployment = made.expect(201).id();
        }
        if wanted("builds") {
            let request = api.request(Method::POST, &format!("{app}/builds"));
            let request = request.header("X-API-Key", &api.admin);
            let made = api
                .send(request.header("Content-Type", "application/gzip").body("x"))
                .await;
            self.build = made.expect(201).id();
        }
        if wanted("source") {
            let source = json!({ "repository": "https://github.com/acme/shop" });
            let path = format!("{app}/source");
            api.call(&api.admin, Method::PUT, &path, Some(source))
                .await
                .expect(200);
        }
    }

    pub(crate) fn domain(&self) -> String {
        format!("{}.example.com", self.organization.slug)
    }

    pub(crate) fn path(&self, template: &str) -> String {
        let id = match thing_of(template) {
            "apps" => self.app.clone(),
            "deployments" => self.deployment.clone(),
            "tasks" => self.task.to_string(),
            "nodes" => self.node.to_string(),
            "artifacts" => self.artifact.clone(),
            "builds" => self.build.clone(),
            "webhooks" => self.webhook.clone(),
            "api-keys" => self.api_key.to_string(),
            "users" => self.member.to_string(),
            "orgs" => self.invitation.clone(),
            _ => String::new(),
        };
        let slug = if template.starts_with("/orgs/") {
            &self.organization.slug
        } else {
            "staging"
        };
        template
            .replace("{id}", &id)
            .replace("{namespace}", &self.organization.slug)
            .replace("{name}", "hello")
            .replace("{subdomain}", &format!("hello-{}", self.organization.slug))
            .replace("{slug}", slug)
            .replace("{user_id}", &self.member.to_string())
            .replace("{key}", "KEY")
            .replace("{domain}", &self.domain())
            .replace("{delivery}", &self.delivery.to_string())
    }

    pub(crate) fn with_body(
        &self,
        request: RequestBuilder,
        method: &Method,
        template: &str,
    ) -> RequestBuilder {
        let slug = &self.organization.slug;
        let fresh = format!("n{}", &Uuid::now_v7().simple().to_string()[20..]);
        let body = match (method.as_str(), template) {
            ("POST", "/apps/{id}/builds") => {
                return request.header("Content-Type", "application/gzip").body("x");
            }
            ("POST", "/artifacts/{id}/upload") => return request.body("x"),
            ("POST", "/auth/signup" | "/auth/login") => {
                json!({ "email": "a@example.org", "password": "long enough" })
            }
            ("POST", "/api-keys") => json!({ "name": "x" }),
            ("POST", "/orgs" | "/apps/{id}/environments") => json!({ "slug": fresh }),
            ("POST", "/namespaces") => json!({ "name": fresh, "organization": slug }),
            ("POST", "/apps") => json!({ "name": fresh, "namespace": slug }),
            ("POST", "/artifacts") => json!({ "name": "x", "organization": slug }),
            ("POST", "/apps/{id}/deployments") => json!({ "image": "nginx" }),
            ("POST", "/webhooks") => json!({ "url": "https://zectre.invalid/", "organization": slug }),
            ("PUT", "/orgs/{slug}/members/{user_id}") => json!({ "role": "developer" }),
            ("POST", "/orgs/{slug}/invitations") => json!({ "email": format!("{fresh}@example.org") }),
            ("POST", "/auth/cli/approve") => json!({ "user_code": "BBBB-BBBB" }),
            ("POST", "/auth/cli/token") => json!({ "device_code": "zd_unknown" }),
            ("POST", "/user/password") => {
                json!({ "current_password": "long enough", "new_password": "long enough too" })
            }
            ("POST", "/auth/reset-password") => {
                json!({ "token": "zr_unknown", "new_password": "long enough" })
            }
            ("POST", "/invitations/accept") => json!({ "token": "zi_unknown" }),
            ("POST", "/tasks/{id}/logs") => json!({ "lines": [] }),
            ("POST", "/apps/{id}/custom-domains") => json!({ "domain": format!("{fresh}.example.com") }),
            ("PUT", "/apps/{id}/source") => json!({ "repository": "https://github.com/acme/shop" }),
            ("PUT", "/apps/{id}/env/{key}") => json!({ "value": "x" }),
            ("PUT", "/apps/{id}" | "/orgs/{slug}/quota")
            | ("PATCH", "/deployments/{id}")
            | ("POST", "/webhooks/github" | "/auth/cli/initiate") => json!({}),
            ("PATCH", "/apps/{id}/env") => json!([]),
            _ => return request,
        };
        request.json(&body)
    }
}

/// What kind of thing a path names first.
fn thing_of(template: &str) -> &str {
    // A thing's series are found by the thing's id.
    let thing = template.strip_prefix("/metrics").unwrap_or(template);
    thing.split('/').nth(1).unwrap_or_default()
}
