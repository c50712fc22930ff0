//! Whatever is sent, the answer is a 4xx problem that says what to do.

use crate::harness::{Harness, normal};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

#[tokio::test]
async fn bad_bodies_paths_and_queries() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let post = |body: &'static str| {
        api.request(Method::POST, "/apps")
            .header("X-API-Key", &api.admin)
            .body(body)
    };
    let json = |body| post(body).header("Content-Type", "application/json");
    let mut seen = Vec::new();
    for (request, status, code) in [
        (json("{\"name\": "), 400, "MALFORMED_JSON"),
        (json("{\"nam\": \"x\"}"), 400, "INVALID_INPUT"),
        (json("{\"name\": 7}"), 400, "INVALID_INPUT"),
        (json(" [\"hello2\"]"), 400, "INVALID_INPUT"),
        (
            json("{\"name\": \"hello2\"}").header("Content-Encoding", "gzip"),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        (
            json("{\"name\": \"hello2\", \"description\": \"\\u001b[2J\"}"),
            400,
            "INVALID_INPUT",
        ),
        (json("{\"name\": \"Not A Slug\"}"), 400, "INVALID_INPUT"),
        (json("{\"name\": \"env\"}"), 400, "INVALID_INPUT"),
        (
            json("{\"name\": \"x\", \"namespace\": \"nowhere\"}"),
            404,
            "NAMESPACE_NOT_FOUND",
        ),
        (post("{}"), 415, "UNSUPPORTED_MEDIA_TYPE"),
    ] {
        let answer = api.send(request).await.expect(status);
        assert_eq!(answer.code(), code);
        seen.push(normal(&answer.json()));
    }
    for (path, status, code) in [
        ("/apps/not-an-id".to_owned(), 400, "INVALID_PATH"),
        (format!("/apps/{}", Uuid::now_v7()), 404, "APP_NOT_FOUND"),
        ("/apps?sort_by=colour".into(), 400, "INVALID_QUERY"),
        ("/apps?sort_order=up".into(), 400, "INVALID_QUERY"),
        ("/apps?colour=red".into(), 400, "INVALID_QUERY"),
        ("/apps?page=0".into(), 400, "INVALID_INPUT"),
        ("/apps?page_size=101".into(), 400, "INVALID_INPUT"),
        ("/apps?page=x".into(), 400, "INVALID_QUERY"),
        (
            format!("/apps/{app}/deployments?status=fine"),
            400,
            "INVALID_QUERY",
        ),
        ("/apps/default/nothing".into(), 404, "APP_NOT_FOUND"),
        ("/nothing".into(), 404, "NOT_FOUND"),
        ("/tasks?node_id=x".into(), 400, "INVALID_QUERY"),
    ] {
        let answer = api.get(&path).await.expect(status);
        assert_eq!(answer.code(), code, "{path}");
        seen.push(normal(&answer.json()));
    }
    insta::assert_json_snapshot!("bad_input", seen);
    let wrong_method = api.call(&api.admin, Method::PUT, "/apps", None).await;
    assert_eq!(wrong_method.expect(405).code(), "METHOD_NOT_ALLOWED");
    api.stop().await;
}

#[tokio::test]
async fn a_nul_character_is_refused_wherever_it_stands() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    for path in [
        format!("/apps/{app}/deployments?environment=%00"),
        format!("/apps/{app}/env?environment=a%00"),
        "/events?action=%00".into(),
        "/artifacts?sha256=%00".into(),
        "/apps?namespace=%00".into(),
        "/apps/by-subdomain/%00".into(),
        "/apps/default/%00".into(),
    ] {
        let answer = api.get(&path).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text);
        answer.code();
    }
    for path in [
        format!("/apps/{app}/env/%00"),
        format!("/apps/{app}/env/K?environment=%00"),
        format!("/apps/{app}/environments/%00"),
    ] {
        let answer = api.call(&api.admin, Method::DELETE, &path, None).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text);
        answer.code();
    }
    let nul = "a\u{0}b";
    let deploy = format!("/apps/{app}/deployments");
    for (path, body) in [
        ("/apps", json!({ "name": nul })),
        ("/apps", json!({ "name": "x", "description": nul })),
        ("/apps", json!({ "name": "x", "labels": { "k": nul } })),
        ("/orgs", json!({ "slug": "x", "name": nul })),
        ("/namespaces", json!({ "name": nul })),
        ("/artifacts", json!({ "name": nul })),
        ("/artifacts", json!({ "name": "x", "organization": nul })),
        ("/api-keys", json!({ "name": nul })),
        (&deploy, json!({ "image": nul })),
        (&deploy, json!({ "image": "x", "environment": nul })),
        (&deploy, json!({ "image": "x", "args": [nul] })),
        (&deploy, json!({ "image": "x", "env": { "K": nul } })),
        (&deploy, json!({ "image": "x", "constraints": [nul] })),
        (
            &deploy,
            json!({ "image": "x", "networking": { "health_path": format!("/{nul}") } }),
        ),
        (
            &deploy,
            json!({ "image": "x", "volumes": [{ "host_path": format!("/{nul}"), "container_path": "/x" }] }),
        ),
    ] {
        let answer = api.post(path, body.clone()).await;
        assert!(
            answer.status == 400 || answer.status == 404,
            "{path} {body}: {}",
            answer.text
        );
        answer.code();
    }
    api.stop().await;
}

#[tokio::test]
async fn bodies_have_a_bound() {
    let api = Harness::start_with("api.body_bytes_max = 1000\nbuild.source_bytes_max = 2000").await;
    let large = json!({ "name": "hello", "description": "x".repeat(2_000) });
    assert_eq!(
        api.post("/apps", large).await.expect(413).code(),
        "BODY_TOO_LARGE"
    );
    let app = api.app("hello").await;
    let build = |bytes: usize| {
        let request = api
            .request(Method::POST, &format!("/apps/{app}/builds"))
            .header("X-API-Key", &api.admin);
        request
            .header("Content-Type", "application/gzip")
            .body("x".repeat(bytes))
    };
    assert_eq!(api.send(build(2_001)).await.expect(413).code(), "BODY_TOO_LARGE");
    api.send(build(2_000)).await.expect(201);
    // Without a length the bound holds while the bytes come.
    let chunks = futures_util::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>("x".repeat(100))));
    let chunked = build(0).body(reqwest::Body::wrap_stream(chunks));
    assert_eq!(api.send(chunked).await.expect(413).code(), "BODY_TOO_LARGE");
    assert_eq!(api.send(build(0)).await.expect(400).code(), "INVALID_INPUT");
    api.stop().await;
}

#[tokio::test]
async fn the_pages_about_the_api_are_public() {
    let api = Harness::start().await;
    let document = api
        .send(api.request(Method::GET, "/openapi.json"))
        .await
        .expect(200);
    assert_eq!(document.text, zectre_api::openapi::json());
    let page = api.send(api.request(Method::GET, "/docs")).await.expect(200);
    assert!(page.text.contains("/api/v1/apps/{id}/deployments") && !page.text.contains("<script"));
    assert_eq!(
        api.send(api.request(Method::GET, "/ready"))
            .await
            .expect(200)
            .json()["ready"],
        true
    );
    api.stop().await;
}

#[tokio::test]
async fn what_nobody_sees_is_in_no_name_and_no_address() {
    let api = Harness::start_with("auth.signup = 'open'").await;
    let app = api.app("hello").await;
    for unseen in ['\u{fe0f}', '\u{2800}', '\u{ffa0}', '\u{e0041}'] {
        let text = format!("ann{unseen}");
        let email = format!("{text}@example.org");
        for (path, body) in [
            ("/orgs", json!({ "slug": "acme", "name": text })),
            ("/api-keys", json!({ "name": text })),
            ("/apps", json!({ "name": "x", "labels": { "team": text } })),
            ("/apps", json!({ "name": "x", "labels": { (text.clone()): "a" } })),
            ("/auth/cli/initiate", json!({ "device_name": text })),
            (
                "/auth/signup",
                json!({ "email": email, "password": "long enough" }),
            ),
            ("/orgs/default/invitations", json!({ "email": email })),
        ] {
            let answer = api.post(path, body).await.expect(400);
            assert!(
                answer.code() == "INVALID_EMAIL" || answer.text.contains("visible characters"),
                "{path}: {}",
                answer.text
            );
        }
    }
    // What is only read may have what scripts and emoji are shaped with.
    let prose = json!({ "description": "a shop ❤\u{fe0f}\nof two lines" });
    api.call(&api.admin, Method::PUT, &format!("/apps/{app}"), Some(prose))
        .await
        .expect(200);
    api.stop().await;
}
