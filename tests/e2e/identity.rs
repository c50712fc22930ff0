//! Nothing answers without an identity, but for what is public.

use reqwest::{Method, StatusCode};
use serde_json::json;
use zectre_e2e::{Daemons, SERVICES};

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

    let internal = [
        ("zectre-scheduler", "/api/v1/nodes/register"),
        ("zectre-scheduler", "/api/v1/nodes/heartbeat"),
        ("zectre-scheduler", "/api/v1/nodes/task-published-port"),
        ("zectre-scheduler", "/api/v1/scheduler/deploy"),
        ("zectre-scheduler", "/api/v1/scheduler/wake"),
        ("zectre-agent", "/api/v1/actions"),
        (
            "zectre-registry",
            "/api/v1/artifacts/0198f2c4-7c3e-7a51-9d0e-3f6f2f4f8a11/upload",
        ),
        ("zectre-build", "/api/v1/builds"),
    ];
    for (service, path) in internal {
        assert!(SERVICES.contains(&service));
        let url = format!("http://127.0.0.1:{}{path}", platform.admin_port(service));
        for token in ["", "eyJhbGciOiJub25lIn0.e30.", "zk_guess"] {
            let request = http.raw().post(&url).json(&json!({}));
            let request = if token.is_empty() {
                request
            } else {
                request.bearer_auth(token)
            };
            let status = request.send().await.expect("an answer").status();
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{service}{path} with `{token}`");
        }
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
