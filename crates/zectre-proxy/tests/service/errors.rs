//! What people see when there is no answer.

use crate::{
    client::{client, full, send},
    origin::{Origin, nobody},
    world::World,
};
use http::StatusCode;

#[tokio::test]
async fn an_unknown_host_is_named_to_programs_and_to_people() {
    let world = World::new().await;
    let proxy = world.start().await;
    let got = proxy.get("nobody").await;
    let problem = got.problem();
    assert_eq!(
        (got.status, problem.code.as_str()),
        (StatusCode::NOT_FOUND, "UNKNOWN_HOST")
    );
    assert!(
        problem.detail.contains("`nobody.zectre.localhost`"),
        "{}",
        problem.detail
    );
    assert_eq!(got.header("x-error-detail"), problem.detail);
    assert_eq!(problem.request_id.as_deref(), Some(got.header("x-request-id")));
    let browser = client()
        .get(proxy.url("/"))
        .header("host", "nobody.example")
        .header("accept", "text/html,*/*");
    let page = send(browser).await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (StatusCode::NOT_FOUND, "text/html; charset=utf-8")
    );
    assert!(
        page.body.contains("UNKNOWN_HOST") && page.body.contains("nobody.example"),
        "{}",
        page.body
    );
    proxy.stop().await;
}

#[tokio::test]
async fn a_deployment_that_never_served_says_why() {
    let world = World::new().await;
    let (application, environment) = world.environment("shop", "production").await;
    let proxy = world.start().await;
    assert_eq!(proxy.get("shop-default").await.problem().code, "NOTHING_DEPLOYED");
    let deployment = world.deployment(application, environment, "shop-1").await;
    let set = |status: &'static str| {
        let pool = world.pool.clone();
        async move {
            sqlx::query!(
                "UPDATE deployments SET status = $2, reason = 'port_never_opened', message = 'it did not listen' WHERE id = $1",
                deployment as _,
                status
            )
            .execute(&pool)
            .await
            .expect("updated");
        }
    };
    set("failed").await;
    world.publish().await;
    let problem = proxy.get("shop-default").await.problem();
    assert_eq!(
        (problem.status, problem.code.as_str()),
        (503, "DEPLOYMENT_FAILED")
    );
    assert!(
        problem.detail.contains("port_never_opened") && !problem.detail.contains("it did not listen"),
        "{}",
        problem.detail
    );
    set("pending").await;
    world.publish().await;
    let got = proxy.get("shop-1").await;
    assert_eq!(
        (got.problem().code.as_str(), got.header("retry-after")),
        ("DEPLOYMENT_PENDING", "2")
    );
    proxy.stop().await;
}

#[tokio::test]
async fn a_task_that_does_not_answer_is_a_504_and_one_that_is_away_a_502() {
    let mut world = World::new().await;
    // Longer than a task that is away is passed over: each request finds out by itself.
    world.configure("[proxy]\nresponse_timeout_ms = 200\nwake_timeout_ms = 5000");
    let silent = Origin::new(|_| std::future::pending()).await;
    world.app_at("silent", &[&silent]).await;
    let gone = world.app("gone").await;
    world.task(gone.deployment, nobody()).await;
    let proxy = world.start().await;
    let got = proxy.get("silent-default").await;
    assert_eq!(
        (got.status, got.problem().code.as_str()),
        (StatusCode::GATEWAY_TIMEOUT, "UPSTREAM_TIMEOUT")
    );
    let got = proxy.get("gone-default").await;
    assert_eq!(
        (got.status, got.problem().code.as_str()),
        (StatusCode::BAD_GATEWAY, "BAD_GATEWAY")
    );
    let upload = client()
        .post(proxy.url("/"))
        .header("host", full("gone-default"))
        .body("x".repeat(100_000));
    assert_eq!(send(upload).await.status, StatusCode::BAD_GATEWAY);
    proxy.stop().await;
}
