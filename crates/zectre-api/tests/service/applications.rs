//! Applications and what belongs to them.

use crate::{
    harness::{Harness, normal},
    rows,
};
use futures_util::future::{join, join_all};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use zectre_testkit::wait_until;

#[tokio::test]
async fn applications() {
    let api = Harness::start().await;
    let before = rows::epoch(&api.pool).await;
    let body = json!({ "name": "hello", "description": "says so", "labels": { "team": "a" }, "default_deployment_spec": { "replicas": 2 } });
    let made = api.post("/apps", body).await.expect(201);
    let id = made.id();
    assert_eq!(made.headers["location"], format!("/api/v1/apps/{id}"));
    assert!(
        rows::epoch(&api.pool).await > before,
        "proxies are told of the new host"
    );
    insta::assert_json_snapshot!("app", normal(&made.json()));
    assert_eq!(
        api.post("/apps", json!({ "name": "hello" }))
            .await
            .expect(409)
            .code(),
        "APP_EXISTS"
    );
    for path in [
        format!("/apps/{id}"),
        "/apps/default/hello".into(),
        "/apps/by-subdomain/hello-default".into(),
    ] {
        assert_eq!(api.get(&path).await.expect(200).json(), made.json(), "{path}");
    }
    api.app("another").await;
    let list = api
        .get("/apps?namespace=default&sort_by=name&sort_order=asc&page_size=1&page=2")
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&list["total"], &list["page"], &list["page_size"]),
        (&json!(2), &json!(2), &json!(1))
    );
    assert_eq!(list["data"][0]["name"], "hello");
    let changed = api
        .call(
            &api.admin,
            Method::PUT,
            &format!("/apps/{id}"),
            Some(json!({ "description": "new" })),
        )
        .await;
    let changed = changed.expect(200).json();
    assert_eq!(
        (&changed["description"], &changed["labels"]["team"]),
        (&json!("new"), &json!("a"))
    );
    api.call(&api.admin, Method::DELETE, &format!("/apps/{id}"), None)
        .await
        .expect(204);
    assert_eq!(
        api.get(&format!("/apps/{id}")).await.expect(404).code(),
        "APP_NOT_FOUND"
    );
    api.app("hello").await;
    api.stop().await;
}

/// The version is served there: another organization's application would never be, or only once the version is gone.
#[tokio::test]
async fn a_preview_keeps_its_name_from_other_applications() {
    let api = Harness::start().await;
    let deployment = api.deployment().await;
    let shown = api
        .get(&format!("/deployments/{deployment}"))
        .await
        .expect(200)
        .json();
    let label = shown["preview_label"].as_str().expect("a label");
    let namespace = label
        .strip_prefix("hello-")
        .expect("the application's name, and more");
    api.post("/namespaces", json!({ "name": namespace }))
        .await
        .expect(201);
    let body = json!({ "name": "hello", "namespace": namespace });
    let refused = api.post("/apps", body).await.expect(409);
    assert_eq!(refused.code(), "APP_EXISTS");
    let body = json!({ "name": "other", "namespace": namespace });
    api.post("/apps", body).await.expect(201);
}

#[tokio::test]
async fn organizations_and_environments() {
    let api = Harness::start().await;
    let org = api
        .post("/orgs", json!({ "slug": "acme", "name": "Acme" }))
        .await
        .expect(201);
    insta::assert_json_snapshot!("organization", normal(&org.json()));
    let namespace = api
        .post("/namespaces", json!({ "name": "shop", "organization": "acme" }))
        .await
        .expect(201);
    insta::assert_json_snapshot!("namespace", normal(&namespace.json()));
    assert_eq!(
        api.post("/namespaces", json!({ "name": "shop" }))
            .await
            .expect(409)
            .code(),
        "NAMESPACE_EXISTS"
    );
    let app = api
        .post("/apps", json!({ "name": "web", "namespace": "shop" }))
        .await
        .expect(201)
        .id();
    let path = format!("/apps/{app}/environments");
    api.post(&path, json!({ "slug": "staging" })).await.expect(201);
    assert_eq!(
        api.post(&path, json!({ "slug": "staging" }))
            .await
            .expect(409)
            .code(),
        "ENVIRONMENT_EXISTS"
    );
    insta::assert_json_snapshot!("environments", normal(&api.get(&path).await.expect(200).json()));
    let delete = async |slug: &str| {
        api.call(&api.admin, Method::DELETE, &format!("{path}/{slug}"), None)
            .await
    };
    assert_eq!(
        delete("production").await.expect(409).code(),
        "ENVIRONMENT_PROTECTED"
    );
    delete("staging").await.expect(204);
    assert_eq!(
        delete("staging").await.expect(404).code(),
        "ENVIRONMENT_NOT_FOUND"
    );
    api.stop().await;
}

#[tokio::test]
async fn the_last_place_for_an_environment_is_given_once() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let path = format!("/apps/{app}/environments");
    // Two came with the application.
    let rows = "INSERT INTO environments (id, application_id, slug)
                SELECT gen_random_uuid(), $1::uuid, 'e' || n FROM generate_series(1, 97) AS n";
    let rows = sqlx::query(rows).bind(&app).execute(&api.pool).await;
    assert_eq!(rows.expect("valid").rows_affected(), 97);
    let slugs: Vec<String> = (0..8).map(|n| format!("late-{n}")).collect();
    let made = slugs.iter().map(|slug| api.post(&path, json!({ "slug": slug })));
    let made = futures_util::future::join_all(made).await;
    let made: Vec<u16> = made.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(
        made.iter().filter(|status| **status == 201).count(),
        1,
        "{made:?}"
    );
    assert!(made.iter().all(|status| [201, 409].contains(status)), "{made:?}");
    api.stop().await;
}

#[tokio::test]
async fn variables_are_sealed_and_secrets_never_come_back() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let path = format!("/apps/{app}/env");
    let put = async |key: &str, body: Value| {
        api.call(&api.admin, Method::PUT, &format!("{path}/{key}"), Some(body))
            .await
    };
    put("PLAIN", json!({ "value": "visible" })).await.expect(200);
    let secret = put(
        "SECRET",
        json!({ "value": "hunter2", "secret": true, "environment": "production" }),
    )
    .await
    .expect(200);
    assert!(!secret.text.contains("hunter2"));
    assert_eq!(
        put("A", json!({ "value": "x", "environment": "nowhere" }))
            .await
            .expect(404)
            .code(),
        "ENVIRONMENT_NOT_FOUND"
    );
    let changes = json!([{ "key": "PLAIN", "value": "changed" }, { "key": "MORE", "value": "" }, { "key": "GONE", "value": null }]);
    let all = api
        .call(&api.admin, Method::PATCH, &path, Some(changes))
        .await
        .expect(200);
    assert!(!all.text.contains("hunter2"));
    insta::assert_json_snapshot!(
        "variables",
        all.json()["data"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| { json!([one["key"], one["value"], one["environment"], one["secret"]]) })
            .collect::<Vec<_>>()
    );
    let stored: Vec<Vec<u8>> = sqlx::query_scalar("SELECT value FROM env_vars")
        .fetch_all(&api.pool)
        .await
        .expect("there");
    assert!(
        stored
            .iter()
            .all(|value| !String::from_utf8_lossy(value).contains("hunter2"))
    );
    // A mistake anywhere changes nothing.
    let half = json!([{ "key": "PLAIN", "value": null }, { "key": "1BAD", "value": "x" }]);
    assert_eq!(
        api.call(&api.admin, Method::PATCH, &path, Some(half))
            .await
            .expect(400)
            .json()["errors"][0]["field"],
        "env.1BAD"
    );
    // Every start carries all of them.
    let many: Vec<Value> = (0..6)
        .map(|number| json!({ "key": format!("BIG_{number}"), "value": "x".repeat(90 << 10) }))
        .collect();
    let many = api
        .call(&api.admin, Method::PATCH, &path, Some(json!(many)))
        .await;
    many.expect(409).shows("TOO_MANY_VARIABLES");
    let gone = api
        .call(&api.admin, Method::DELETE, &format!("{path}/PLAIN"), None)
        .await;
    gone.expect(204);
    let again = api
        .call(&api.admin, Method::DELETE, &format!("{path}/PLAIN"), None)
        .await;
    assert_eq!(again.expect(404).code(), "VARIABLE_NOT_FOUND");
    api.stop().await;
}

#[tokio::test]
async fn who_waits_for_the_epoch_holds_nothing_of_the_namespace() {
    let api = Harness::start().await;
    let old = api.app("old").await;
    // Whoever holds the one and waits for the other waits for ever for who has them the other way round.
    let old = format!("/apps/{old}");
    for (method, path, body, status) in [
        (Method::POST, "/apps", Some(json!({ "name": "new" })), 201),
        (Method::DELETE, old.as_str(), None, 204),
    ] {
        let mut other = api.pool.begin().await.expect("a transaction");
        let raise = sqlx::query("SELECT raise_routing_epoch()");
        raise.execute(&mut *other).await.expect("it is raised");
        let look = async {
            let waits = async || (rows::waiting(&api.pool).await > 0).then_some(());
            wait_until(Duration::from_secs(60), "the call waits for the epoch", waits).await;
            let count = sqlx::query("SELECT FROM application_counts FOR UPDATE NOWAIT");
            let free = count.execute(&mut *other).await;
            free.expect("nobody holds the namespace's number");
            other.commit().await.expect("committed");
        };
        let (answer, ()) = join(api.call(&api.admin, method, path, body), look).await;
        answer.expect(status);
    }
    api.stop().await;
}

#[tokio::test]
async fn many_are_made_and_deleted_at_once_in_one_namespace() {
    const MANY: usize = 6;
    let api = Harness::start().await;
    let mut standing = Vec::new();
    for round in 0..4 {
        let deletions = join_all(standing.iter().map(|id| {
            let path = format!("/apps/{id}");
            let api = &api;
            async move { api.call(&api.admin, Method::DELETE, &path, None).await }
        }));
        let creations = join_all((0..MANY).map(|number| {
            let body = json!({ "name": format!("app-{round}-{number}") });
            let api = &api;
            async move { api.post("/apps", body).await }
        }));
        let (deleted, made) = join(deletions, creations).await;
        for answer in deleted {
            answer.expect(204);
        }
        standing = made.into_iter().map(|answer| answer.expect(201).id()).collect();
    }
    assert_eq!(api.get("/apps").await.json()["total"], MANY);
    api.stop().await;
}
