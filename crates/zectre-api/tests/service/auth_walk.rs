//! Every endpoint of the document with every kind of caller: deny by default, and nothing forgotten.

use crate::{harness::Harness, rows, things::Things};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;
use zectre_common::id::NodeId;
use zectre_service::{
    key::{from_hex, node_key},
    token::{mint_node, mint_service, name},
};

const CALLERS: [&str; 17] = [
    "anonymous",
    "garbage",
    "expired token",
    "expired key",
    "revoked token",
    "wrong audience",
    "unsigned token",
    "disabled",
    "agent",
    "other agent",
    "reading key",
    "outsider",
    "viewer",
    "developer",
    "admin",
    "owner",
    "cluster admin",
];

/// A login token as this cluster makes them, but for what is said otherwise.
fn login_token(api: &Harness, claims: &Value) -> String {
    let hex = std::fs::read_to_string(&api.token_key_file).expect("the key was made");
    let key: [u8; 32] = from_hex(hex.trim()).expect("a key");
    let mut all = json!({ "jti": Uuid::now_v7(), "iat": 1_000_000_000, "exp": 4_000_000_000_u64, "iss": "zectre",
                          "aud": "zectre-api", "epoch": 0 });
    let object = all.as_object_mut().expect("an object");
    object.extend(claims.as_object().expect("an object").clone());
    jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &all,
        &EncodingKey::from_secret(&key),
    )
    .expect("plain claims")
}

fn unsigned(token: &str) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let claims = token.split('.').nth(1).expect("three parts");
    format!(
        "{}.{claims}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#)
    )
}

/// What the policy says about a caller.
#[derive(Debug, PartialEq)]
enum Expected {
    Let,
    Status(u16),
}

fn rank(role: &str) -> usize {
    ["viewer", "developer", "admin", "owner", "cluster admin"]
        .iter()
        .position(|one| *one == role)
        .map_or(0, |at| at + 1)
}

fn expected(policy: &str, method: &Method, caller: &str) -> Expected {
    let known = rank(caller) > 0 || ["outsider", "disabled", "reading key"].contains(&caller);
    match policy.split_once(':') {
        None if policy == "public" => Expected::Let,
        None if policy == "task_agent" => match caller {
            "agent" => Expected::Let,
            "other agent" => Expected::Status(404),
            _ => Expected::Status(401),
        },
        _ if !known => Expected::Status(401),
        _ if caller == "disabled" => Expected::Status(403),
        // An owner's key that only reads.
        Some((_, least)) if caller == "reading key" => match least.split('|').next() {
            Some("viewer") => Expected::Let,
            _ => Expected::Status(403),
        },
        None if caller == "reading key" && policy != "user" => Expected::Status(403),
        None if policy == "user" || policy == "account" => Expected::Let,
        None if policy == "cluster_admin" && caller == "cluster admin" => Expected::Let,
        None if policy == "cluster_admin" => Expected::Status(403),
        Some(("member", _)) if method == Method::GET => Expected::Let,
        Some((_, least)) => {
            let least = rank(least.split('|').next().unwrap_or_default());
            match rank(caller) {
                0 => Expected::Status(404),
                have if have >= least => Expected::Let,
                _ => Expected::Status(403),
            }
        }
        None => panic!("an endpoint has the unknown policy `{policy}`"),
    }
}

/// A caller with a key of their own.
struct Caller {
    kind: &'static str,
    user: Uuid,
    key: String,
    api_key: Uuid,
}

impl Caller {
    async fn make(api: &Harness, kind: &'static str) -> Self {
        let (user, key) = rows::user(&api.pool, kind == "cluster admin").await;
        let api_key = sqlx::query_scalar("SELECT id FROM api_keys WHERE user_id = $1").bind(user);
        let caller = Self {
            kind,
            user,
            key,
            api_key: api_key.fetch_one(&api.pool).await.expect("was made"),
        };
        caller.spoil(api).await;
        caller
    }

    async fn join(&self, api: &Harness, things: &Things) {
        let role = match self.kind {
            "outsider" | "cluster admin" | "anonymous" | "garbage" | "agent" | "other agent" => return,
            role if rank(role) > 0 => role,
            // What would let them in, were it not for the one thing that is wrong.
            _ => "owner",
        };
        rows::member(&api.pool, self.user, things.organization.id, role).await;
    }

    /// Makes wrong what is wrong about the caller.
    async fn spoil(&self, api: &Harness) {
        let statement = match self.kind {
            "expired key" => "UPDATE api_keys SET expires_at = now() WHERE user_id = $1",
            "reading key" => "UPDATE api_keys SET scopes = '{read}' WHERE user_id = $1",
            "disabled" => "UPDATE users SET disabled = true WHERE id = $1",
            _ => return,
        };
        let done = sqlx::query(statement).bind(self.user).execute(&api.pool).await;
        assert_eq!(done.expect("valid").rows_affected(), 1);
    }

    async fn sign(&self, api: &Harness, things: &Things, request: RequestBuilder) -> RequestBuilder {
        let user = self.user;
        let agent = |node: Uuid| {
            let (key, node) = (api.keys.service().expect("was made"), NodeId::from_uuid(node));
            mint_node(&node_key(&key, node), node, name::AGENT, name::API)
        };
        match self.kind {
            "anonymous" => request,
            "garbage" => request.header("X-API-Key", "zk_garbage"),
            "expired token" => {
                let token = login_token(api, &json!({ "sub": user, "exp": 1_000_000_600 }));
                request.bearer_auth(token)
            }
            "wrong audience" => request.bearer_auth(login_token(
                api,
                &json!({ "sub": user, "aud": "zectre-registry" }),
            )),
            "unsigned token" => request.bearer_auth(unsigned(&login_token(api, &json!({ "sub": user })))),
            "revoked token" => {
                let token = login_token(api, &json!({ "sub": user }));
                let logout = api.request(Method::POST, "/auth/logout").bearer_auth(&token);
                api.send(logout).await.expect(204);
                request.bearer_auth(token)
            }
            "agent" => request.bearer_auth(agent(things.node)),
            "other agent" => request.bearer_auth(agent(rows::node(&api.pool).await)),
            _ => request.header("X-API-Key", &self.key),
        }
    }
}

#[tokio::test]
async fn every_endpoint_answers_every_caller_as_its_policy_says() {
    let api = Harness::start_with("domains.verification = 'off'").await;
    let shared = Things::make(&api, Uuid::now_v7()).await;
    let mut callers = Vec::new();
    for kind in CALLERS {
        let caller = Caller::make(&api, kind).await;
        caller.join(&api, &shared).await;
        callers.push(caller);
    }
    let document = serde_json::to_value(zectre_api::openapi::document()).expect("plain data");
    let mut walked = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let policy = operation["x-policy"]
                .as_str()
                .unwrap_or_else(|| panic!("{method} {path} has no policy"));
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
            let template = path.strip_prefix("/api/v1").expect("the prefix");
            for caller in &callers {
                walk(&api, &shared, &method, template, policy, caller).await;
                walked += 1;
            }
        }
    }
    assert!(
        walked > 50 * CALLERS.len(),
        "the document lists {walked} calls only"
    );
    api.stop().await;
}

async fn walk(
    api: &Harness,
    shared: &Things,
    method: &Method,
    template: &str,
    policy: &str,
    caller: &Caller,
) {
    let expected = expected(policy, method, caller.kind);
    // What is allowed to change things gets its own: the next caller must find them whole.
    if expected != Expected::Let || *method == Method::GET {
        return ask(api, shared, (method, template, policy), caller, expected).await;
    }
    let caller = Caller::make(api, caller.kind).await;
    let things = Things::make_for(api, caller.api_key, template).await;
    caller.join(api, &things).await;
    if template.ends_with("environments/{slug}") {
        let path = format!("/apps/{}/environments", things.app);
        api.post(&path, json!({ "slug": "staging" })).await.expect(201);
    }
    if template.contains("{domain}") {
        let path = format!("/apps/{}/custom-domains", things.app);
        api.post(&path, json!({ "domain": things.domain() }))
            .await
            .expect(201);
    }
    ask(api, &things, (method, template, policy), &caller, expected).await;
}

async fn ask(
    api: &Harness,
    things: &Things,
    (method, template, policy): (&Method, &str, &str),
    caller: &Caller,
    expected: Expected,
) {
    let request = api.request(method.clone(), &things.path(template));
    let request = things.with_body(request, method, template);
    let request = caller.sign(api, things, request).await;
    let response = request.send().await.expect("the service answers");
    let status = response.status().as_u16();
    let what = format!("{method} {template} ({policy}) by {}: {status}", caller.kind);
    match expected {
        Expected::Status(wanted) => assert_eq!(status, wanted, "{what}"),
        // Public ones refuse for reasons of their own; the accounts of this test have no password.
        Expected::Let if template == "/user/password" => assert_eq!(status, 401, "{what}"),
        Expected::Let if policy == "public" => assert!(status < 500, "{what}"),
        // What is not there is no question of rights: a variable that was never set, an unknown invitation or code,
        // the membership of who is no member.
        Expected::Let
            if *method == Method::DELETE && template.ends_with("{key}")
                || template == "/invitations/accept"
                || template == "/auth/cli/approve"
                || template.ends_with("/membership")
                    && ["outsider", "cluster admin"].contains(&caller.kind) =>
        {
            assert_eq!(status, 404, "{what}");
        }
        Expected::Let => assert!(![401, 403, 404].contains(&status) && status < 500, "{what}"),
    }
    let sees_nothing = caller.kind == "outsider" && policy.starts_with("member:") && *method == Method::GET;
    if sees_nothing && !template.ends_with("/stream") {
        let list: Value = response.json().await.expect("a list");
        assert_eq!(list["total"], 0, "{what}");
    }
}

#[tokio::test]
async fn services_and_agents_may_do_their_own_thing_and_nothing_else() {
    let api = Harness::start().await;
    let things = Things::make(&api, Uuid::now_v7()).await;
    let service_key = api.keys.service().expect("was made");
    let call = async |method: Method, path: String, token: &str, body: Value| {
        api.send(api.request(method, &path).bearer_auth(token).json(&body))
            .await
            .status
            .as_u16()
    };
    let wake = format!("/deployments/{}/wake?wait=ready", things.deployment);
    for (caller, status) in [(name::PROXY, 200), (name::BUILD, 401), (name::SCHEDULER, 401)] {
        let token = mint_service(&service_key, caller, name::API);
        assert_eq!(
            call(Method::POST, wake.clone(), &token, json!({})).await,
            status,
            "{caller}"
        );
    }
    let proxy = mint_service(&service_key, name::PROXY, name::API);
    assert_eq!(
        call(
            Method::GET,
            format!("/deployments/{}", things.deployment),
            &proxy,
            json!({})
        )
        .await,
        401
    );
    let elsewhere = mint_service(&service_key, name::PROXY, name::REGISTRY);
    assert_eq!(call(Method::POST, wake, &elsewhere, json!({})).await, 401);
    let node = NodeId::from_uuid(things.node);
    let agent = mint_node(&node_key(&service_key, node), node, name::AGENT, name::API);
    let logs = format!("/tasks/{}/logs", things.task);
    assert_eq!(
        call(Method::POST, logs.clone(), &agent, json!({ "lines": [] })).await,
        204
    );
    assert_eq!(call(Method::GET, logs.clone(), &agent, json!({})).await, 401);
    let other = NodeId::from_uuid(rows::node(&api.pool).await);
    let stranger = mint_node(&node_key(&service_key, other), other, name::AGENT, name::API);
    assert_eq!(
        call(Method::POST, logs, &stranger, json!({ "lines": [] })).await,
        404
    );
    api.stop().await;
}
