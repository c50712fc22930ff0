//! Refusals of what is right in form: bounds that are reached, names that are taken, what is over.

use crate::harness::{Harness, normal};
use serde_json::json;
use sqlx::query;

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
