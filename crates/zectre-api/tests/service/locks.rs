//! What changes that come at once wait for: each other in turn, and never in a ring.

use crate::{harness::Harness, rows};
use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection};
use std::time::Duration;
use uuid::Uuid;
use zectre_testkit::wait_until;

/// For what comes at once on an idle machine.
const SOON: Duration = Duration::from_secs(60);

async fn run(connection: &mut PgConnection, statement: &str, id: Uuid) {
    let done = sqlx::query(AssertSqlSafe(statement)).bind(id).execute(connection);
    done.await.expect(statement);
}

async fn until_waiting(api: &Harness, count: i64) {
    wait_until(SOON, "they wait for the rows that are held", async || {
        (rows::waiting(&api.pool).await == count).then_some(())
    })
    .await;
}

/// A version that served and sleeps; another one serves in its place.
async fn superseded(api: &Harness, name: &str) -> (Uuid, Uuid) {
    let app = api.app(name).await;
    let path = format!("/apps/{app}/deployments");
    let deploy = async || {
        let body = json!({ "image": "nginx", "environment": "production" });
        api.post(&path, body)
            .await
            .expect(201)
            .id()
            .parse::<Uuid>()
            .expect("an id")
    };
    let (old, new) = (deploy().await, deploy().await);
    rows::serve(&api.pool, new, Some(old)).await;
    let succeeded = sqlx::query("UPDATE deployments SET status = 'succeeded', asleep = true WHERE id = $1");
    succeeded
        .bind(old)
        .execute(&api.pool)
        .await
        .expect("the row is there");
    rows::settle(&api.pool, old, true).await;
    (app.parse().expect("an id"), old)
}

#[tokio::test]
async fn what_is_asked_of_a_version_while_it_is_being_deleted_is_not_done() {
    let api = Harness::start().await;
    let hides = [
        "UPDATE environments SET deleted_at = now() WHERE application_id = $1",
        "UPDATE applications SET deleted_at = now() WHERE id = $1",
    ];
    for (n, hide) in hides.into_iter().enumerate() {
        let (app, old) = superseded(&api, &format!("hello{n}")).await;
        // As a DELETE goes about it.
        let mut deleting = api.pool.begin().await.expect("the database is there");
        let lock = "SELECT 1 FROM applications WHERE id = $1 FOR UPDATE";
        run(&mut deleting, lock, app).await;
        let previews = "UPDATE deployments SET preview_label = 'deleted:' || id WHERE application_id = $1";
        run(&mut deleting, previews, app).await;
        let ask = async |method, action: &str, body| {
            let path = format!("/deployments/{old}{action}");
            api.call(&api.admin, method, &path, body).await
        };
        let scale = Some(json!({ "replicas": 2 }));
        let asked = async {
            tokio::join!(
                ask(Method::POST, "/promote", None),
                ask(Method::POST, "/wake", None),
                ask(Method::POST, "/restart", None),
                ask(Method::PATCH, "", scale)
            )
        };
        let deleted = async {
            until_waiting(&api, 4).await;
            run(&mut deleting, hide, app).await;
            deleting.commit().await.expect("it is committed");
        };
        let ((promote, wake, restart, scale), ()) = tokio::join!(asked, deleted);
        for answer in [promote, wake, restart, scale] {
            assert_eq!(answer.expect(404).code(), "DEPLOYMENT_NOT_FOUND", "{hide}");
        }
        assert_eq!(rows::operations(&api.pool, old).await, ["deploy"], "{hide}");
    }
    api.stop().await;
}

/// Of two changes that lock the same rows in two orders, the server ends one after a second.
#[tokio::test]
async fn who_waits_for_an_organization_holds_neither_the_epoch_nor_a_deployment() {
    let config = "quotas.tasks_max = 100\nproxy.tcp_port_range = '30000-30009'";
    let api = Harness::start_with(config).await;
    let (app, old) = superseded(&api, "hello").await;
    let tcp = json!({ "image": "redis", "networking": { "protocol": "tcp" } });
    let (deploy, promote) = (
        format!("/apps/{app}/deployments"),
        format!("/deployments/{old}/promote"),
    );
    let scale = format!("/deployments/{old}");
    for (method, path, body, status) in [
        (Method::POST, &promote, None, 202),
        (Method::PATCH, &scale, Some(json!({ "replicas": 2 })), 200),
        (Method::POST, &deploy, Some(tcp), 201),
    ] {
        let mut held = api.pool.begin().await.expect("the database is there");
        let organization =
            "SELECT 1 FROM organizations WHERE slug = 'default' AND $1::uuid IS NOT NULL FOR UPDATE";
        run(&mut held, organization, old).await;
        let freed = async {
            until_waiting(&api, 1).await;
            for free in [
                "SELECT 1 FROM routing_epoch WHERE $1::uuid IS NOT NULL FOR UPDATE NOWAIT",
                "SELECT 1 FROM deployments WHERE id = $1 FOR UPDATE NOWAIT",
            ] {
                run(&mut held, free, old).await;
            }
            held.rollback().await.expect("the database is there");
        };
        let (answer, ()) = tokio::join!(api.call(&api.admin, method, path, body), freed);
        answer.expect(status);
    }
    api.stop().await;
}
