//! Nodes, tasks and the cluster at a glance; the database going away and coming back.

use crate::{
    harness::{Harness, normal},
    rows,
};
use reqwest::Method;
use serde_json::json;
use std::time::Duration;
use zectre_testkit::{admit, wait_until};

#[tokio::test]
async fn a_task_is_shown_and_stopped_once() {
    let api = Harness::start().await;
    let (deployment, node) = (api.deployment().await, rows::node(&api.pool).await);
    let task = rows::task(&api.pool, deployment, Some(node), "running").await;
    let mut shown = normal(&api.get(&format!("/tasks/{task}")).await.expect(200).json());
    shown["node"] = "[name]".into();
    insta::assert_json_snapshot!("task", shown);
    let path = format!("/deployments/{deployment}/tasks?state=running&sort_by=slot");
    assert_eq!(api.get(&path).await.expect(200).json()["total"], 1);
    api.act(&format!("/tasks/{task}/stop")).await.expect(202);
    assert_eq!(
        rows::operations(&api.pool, deployment).await,
        ["deploy", "stop_task"]
    );
    rows::end_task(&api.pool, task).await;
    assert_eq!(
        api.act(&format!("/tasks/{task}/stop")).await.expect(409).code(),
        "TASK_FINISHED"
    );
    api.stop().await;
}

#[tokio::test]
async fn a_node_is_drained_before_it_goes() {
    let api = Harness::start().await;
    let (deployment, node) = (api.deployment().await, rows::node(&api.pool).await);
    let task = rows::task(&api.pool, deployment, Some(node), "running").await;
    let mut shown = normal(&api.get(&format!("/nodes/{node}")).await.expect(200).json());
    shown["name"] = "[name]".into();
    insta::assert_json_snapshot!("node", shown);
    for (action, status, eligibility) in [
        ("cordon", 200, "cordoned"),
        ("uncordon", 200, "eligible"),
        ("drain", 202, "draining"),
    ] {
        let answer = api.act(&format!("/nodes/{node}/{action}")).await.expect(status);
        assert_eq!(answer.json()["eligibility"], eligibility);
    }
    let delete = async || {
        api.call(&api.admin, Method::DELETE, &format!("/nodes/{node}"), None)
            .await
    };
    assert_eq!(delete().await.expect(409).code(), "NODE_IN_USE");
    let late = api.act(&format!("/nodes/{node}/drain?wait=1")).await.expect(504);
    late.shows("DRAIN_INCOMPLETE");
    assert_eq!(late.json()["errors"][0]["field"], task.to_string());
    for wrong in ["121", "soon", "-1"] {
        let answer = api
            .act(&format!("/nodes/{node}/drain?wait={wrong}"))
            .await
            .expect(400);
        assert_eq!(answer.code(), "INVALID_QUERY");
    }
    let path = format!("/nodes/{node}/drain?wait");
    let (drained, ()) = tokio::join!(api.act(&path), rows::end_task(&api.pool, task));
    drained.expect(200);
    delete().await.expect(204);
    assert_eq!(
        api.get(&format!("/nodes/{node}")).await.expect(404).code(),
        "NODE_NOT_FOUND"
    );
    let token = api.act("/nodes/join-tokens").await.expect(201).json();
    assert!(
        token["token"]
            .as_str()
            .is_some_and(|token| token.starts_with("zj_"))
    );
    api.stop().await;
}

#[tokio::test]
async fn a_lost_node_goes_with_the_tasks_it_held() {
    let api = Harness::start().await;
    let (deployment, node) = (api.deployment().await, rows::node(&api.pool).await);
    let task = rows::task(&api.pool, deployment, Some(node), "running").await;
    sqlx::query("UPDATE nodes SET status = 'lost'")
        .execute(&api.pool)
        .await
        .expect("valid");
    api.call(&api.admin, Method::DELETE, &format!("/nodes/{node}"), None)
        .await
        .expect(204);
    let shown = api.get(&format!("/tasks/{task}")).await.expect(200).json();
    assert_eq!(shown["node_id"], json!(null));
    api.stop().await;
}

#[tokio::test]
async fn a_task_shows_what_it_last_used() {
    let api = Harness::start().await;
    let (deployment, node) = (api.deployment().await, rows::node(&api.pool).await);
    let task = rows::task(&api.pool, deployment, Some(node), "running").await;
    let path = format!("/tasks/{task}");
    assert_eq!(api.get(&path).await.json()["usage"], json!(null));
    sqlx::query("UPDATE tasks SET usage_cpu_millis = 250, usage_memory_bytes = 7000000, usage_at = now()")
        .execute(&api.pool)
        .await
        .expect("valid");
    let used = json!({ "cpu_millis": 250, "memory_bytes": 7_000_000 });
    for shown in [
        api.get(&path).await.json(),
        api.get("/tasks").await.json()["data"][0].clone(),
    ] {
        assert_eq!(shown["usage"], used);
        assert!(shown["usage_at"].is_string());
    }
    api.stop().await;
}

#[tokio::test]
async fn the_cluster_says_who_is_ready() {
    let api = Harness::start().await;
    api.app("hello").await;
    let status = api.get("/cluster/status").await.expect(200).json();
    assert_eq!(
        (&status["applications"], &status["nodes_total"]),
        (&json!(1), &json!(0))
    );
    let services = status["services"].as_array().expect("a list");
    let ready = |name: &str| {
        services
            .iter()
            .find(|one| one["name"] == name)
            .map(|one| one["ready"].clone())
    };
    assert_eq!(
        (ready("zectre-scheduler"), ready("zectre-api")),
        (Some(json!(true)), Some(json!(true)))
    );
    api.stop().await;
}

#[tokio::test]
async fn a_deleted_application_is_gone_at_once_and_its_rows_when_its_tasks_are() {
    let api = Harness::start().await;
    let deployment = api.deployment().await;
    let task = rows::task(&api.pool, deployment, None, "running").await;
    let app = api.get(&format!("/deployments/{deployment}")).await.json()["application_id"].clone();
    let path = format!("/apps/{}", app.as_str().expect("an id"));
    api.call(&api.admin, Method::DELETE, &path, None)
        .await
        .expect(204);
    for hidden in [
        path,
        format!("/deployments/{deployment}"),
        format!("/tasks/{task}"),
    ] {
        api.get(&hidden).await.expect(404);
    }
    assert_eq!(
        rows::operations(&api.pool, deployment).await,
        ["deploy", "delete"]
    );
    // The name is free while the old tasks still stop.
    api.app("hello").await;
    api.stop().await;
}

#[tokio::test]
async fn a_database_that_lets_nobody_in_is_said_to_be_away() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    admit(&api.pool, false).await;
    rows::cut_connections(&api.pool, "zectre-api").await;
    for path in ["/apps", "/apps?page_size=1", "/user"] {
        let answer = api.get(path).await.expect(503);
        assert_eq!(answer.headers["retry-after"], "1");
        answer.shows("DATABASE_UNAVAILABLE");
    }
    admit(&api.pool, true).await;
    let served = async || (api.get(&format!("/apps/{app}")).await.status == 200).then_some(());
    wait_until(Duration::from_secs(60), "the database is used again", served).await;
    api.stop().await;
}

#[tokio::test]
async fn a_database_that_was_cut_is_used_again() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    for _ in 0..3 {
        rows::cut_connections(&api.pool, "zectre-api").await;
        let statuses = async || {
            let answer = api.get(&format!("/apps/{app}")).await;
            // Whatever is lost with a connection is a 503 to try again, never a 500.
            assert!(
                answer.status == 200 || answer.code() == "DATABASE_UNAVAILABLE",
                "{}",
                answer.text
            );
            (answer.status == 200).then_some(())
        };
        wait_until(Duration::from_secs(60), "the database is used again", statuses).await;
    }
    assert_eq!(
        api.send(api.request(Method::GET, "/ready"))
            .await
            .expect(200)
            .json()["ready"],
        true
    );
    api.stop().await;
}
