//! Nothing answers without an identity, but for what is public.

use reqwest::{Method, StatusCode};
use serde_json::json;
use std::{collections::BTreeSet, fs, path::Path};
use zectre_e2e::Daemons;

#[tokio::test]
async fn every_endpoint_of_every_service_asks_who_you_are() {
    let platform = Daemons::start().await;
    let (http, id) = (platform.http(), "0198f2c4-7c3e-7a51-9d0e-3f6f2f4f8a11");
    let document = http.raw().get(format!(
        "http://127.0.0.1:{}/api/v1/openapi.json",
        platform.settings().api_port
    ));
    let document: serde_json::Value = document.send().await.expect("public").json().await.expect("JSON");
    let public = [
        "/api/v1/auth/signup",
        "/api/v1/auth/login",
        "/api/v1/auth/cli/initiate",
        "/api/v1/auth/cli/token",
        "/api/v1/auth/reset-password",
        // Whoever signs with the secret of a source.
        "/api/v1/webhooks/github",
        "/api/v1/openapi.json",
    ];
    let mut walked = 0;
    let stranger = http.with_key("");
    for (path, methods) in document["paths"].as_object().expect("paths") {
        if public.contains(&path.as_str()) {
            continue;
        }
        for method in methods.as_object().expect("methods").keys() {
            let filled: String = path
                .split('/')
                .map(|part| if part.starts_with('{') { id } else { part })
                .collect::<Vec<_>>()
                .join("/");
            let method: Method = method.to_uppercase().parse().expect("a method");
            let status = stranger
                .request(method.clone(), &filled)
                .send()
                .await
                .expect("an answer")
                .status();
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
            walked += 1;
        }
    }
    assert!(walked > 40, "the whole API was walked: {walked}");

    for (service, method, path) in INTERNAL {
        let url = format!("http://127.0.0.1:{}{path}", platform.admin_port(service)).replace("{id}", id);
        let method: Method = method.parse().expect("a method");
        for token in ["", "eyJhbGciOiJub25lIn0.e30.", "zk_guess"] {
            let request = http.raw().request(method.clone(), &url).json(&json!({}));
            let request = if token.is_empty() {
                request
            } else {
                request.bearer_auth(token)
            };
            let status = request.send().await.expect("an answer").status();
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{service}{path} with `{token}`");
        }
    }
    let forged = format!(
        "http://127.0.0.1:{}/artifacts/{}/hello?expires=99999999999&signature=00",
        platform.admin_port("zectre-registry"),
        "0".repeat(64)
    );
    let refused = http.raw().get(forged).send().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
}

/// All that daemons tell each other.
const INTERNAL: &[(&str, &str, &str)] = &[
    ("zectre-scheduler", "GET", "/api/v1/nodes"),
    ("zectre-scheduler", "GET", "/api/v1/nodes/{id}"),
    ("zectre-scheduler", "POST", "/api/v1/nodes/register"),
    ("zectre-scheduler", "POST", "/api/v1/nodes/heartbeat"),
    ("zectre-scheduler", "POST", "/api/v1/nodes/task-published-port"),
    ("zectre-scheduler", "POST", "/api/v1/nodes/needed"),
    ("zectre-scheduler", "POST", "/api/v1/scheduler/deploy"),
    ("zectre-scheduler", "POST", "/api/v1/scheduler/assign-pending"),
    (
        "zectre-scheduler",
        "POST",
        "/api/v1/scheduler/reconcile-deployment/{id}",
    ),
    ("zectre-scheduler", "POST", "/api/v1/scheduler/stop-task/{id}"),
    ("zectre-scheduler", "POST", "/api/v1/scheduler/wake"),
    ("zectre-scheduler", "GET", "/api/v1/scheduler/status"),
    ("zectre-agent", "POST", "/api/v1/actions"),
    ("zectre-agent", "GET", "/api/v1/tasks"),
    ("zectre-agent", "GET", "/api/v1/tasks/{id}/logs/stream"),
    ("zectre-registry", "POST", "/api/v1/artifacts/{id}/upload"),
    ("zectre-registry", "GET", "/api/v1/artifacts/{id}/download"),
    ("zectre-registry", "GET", "/artifacts/{sha256}/{name}"),
    ("zectre-build", "POST", "/api/v1/builds"),
    ("zectre-build", "GET", "/api/v1/builds/{id}"),
    ("zectre-build", "POST", "/api/v1/builds/{id}/cancel"),
    ("zectre-build", "GET", "/api/v1/builds/{id}/logs/stream"),
    ("zectre-proxy", "GET", "/routes"),
];

/// A route that is added to a daemon and not to the list fails here: the sources say which there are.
#[test]
fn every_internal_route_is_on_the_list_of_those_that_are_tried() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let sources = ["scheduler", "agent", "registry", "build"].map(|name| (name, "routes/mod.rs"));
    for (name, file) in sources.into_iter().chain([("proxy", "admin.rs")]) {
        let service = format!("zectre-{name}");
        let text = fs::read_to_string(crates.join(&service).join("src").join(file)).expect("its routes");
        let routes: BTreeSet<&str> = text
            .split('"')
            .skip(1)
            .step_by(2)
            .filter(|literal| literal.starts_with('/'))
            .collect();
        let listed: BTreeSet<&str> = INTERNAL
            .iter()
            .filter(|(of, ..)| *of == service)
            .map(|(_, _, path)| *path)
            .collect();
        assert_eq!(routes, listed, "{service}");
    }
}

#[tokio::test]
async fn a_login_holds_until_logout_and_a_foreign_thing_is_not_there() {
    let platform = Daemons::start_with(
        zectre_e2e::Settings::default(),
        &[("auth", "signup", "\"open\"".into())],
    )
    .await;
    let http = platform.http();
    let stranger = http.with_key("");
    let account = json!({"email": "Ada@example.org", "password": "correct horse"});
    stranger.post("/auth/signup", account.clone()).await.expect(201);
    assert_eq!(
        stranger.post("/auth/signup", account).await.problem(409),
        "EMAIL_EXISTS"
    );
    let wrong = stranger
        .post(
            "/auth/login",
            json!({"email": "ada@example.org", "password": "wrong horse"}),
        )
        .await;
    assert_eq!(wrong.problem(401), "INVALID_CREDENTIALS");
    let login = stranger
        .post(
            "/auth/login",
            json!({"email": "ada@example.org", "password": "correct horse"}),
        )
        .await
        .expect(200);
    let token = login["token"].as_str().expect("a token");
    let as_ada = async |method: Method, path: &str| {
        let request = stranger.request(method, &format!("/api/v1{path}"));
        request
            .bearer_auth(token)
            .send()
            .await
            .expect("an answer")
            .status()
            .as_u16()
    };
    assert_eq!(as_ada(Method::GET, "/user").await, 200);

    let app = zectre_e2e::App::create(&http, "private").await;
    assert_eq!(as_ada(Method::GET, &format!("/apps/{}", app.id)).await, 404);
    assert_eq!(as_ada(Method::GET, "/nodes").await, 403);

    assert_eq!(as_ada(Method::POST, "/auth/logout").await / 100, 2);
    assert_eq!(as_ada(Method::GET, "/user").await, 401);
}
