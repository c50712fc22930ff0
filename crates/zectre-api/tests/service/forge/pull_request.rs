//! A pull request gets an environment, and loses it.

use super::{Connected, pull_request};
use crate::{harness::Harness, rows};
use serde_json::{Value, json};
use uuid::Uuid;

async fn environments(api: &Harness, app: &str) -> Vec<String> {
    let list = api
        .get(&format!("/apps/{app}/environments"))
        .await
        .expect(200)
        .json();
    let slug = |one: &Value| one["slug"].as_str().expect("a text").to_owned();
    list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(slug)
        .collect()
}

/// The call about the pull request was ignored, because a newer one was here before it.
#[track_caller]
fn is_late(result: &Value) {
    assert_eq!(result["outcome"], "ignored", "{result}");
    let message = result["message"].as_str().expect("a sentence");
    assert!(
        message.contains("the call is late") && message.contains("`pr-7`"),
        "{result}"
    );
}

#[tokio::test]
async fn a_pull_request_has_an_environment_and_a_host_of_its_own_until_it_is_closed() {
    let connected = Connected::start_with("", json!({ "auto_deploy": false })).await;
    let Connected { api, app } = &connected;
    let send = async |payload: Value| connected.send("pull_request", &payload).await;
    let epoch = rows::epoch(&api.pool).await;
    let opened = send(pull_request("opened", "open", "acme/shop", 1)).await;
    assert_eq!(
        (&opened["outcome"], &opened["environment"]),
        (&json!("deployed"), &json!("pr-7")),
        "{opened}"
    );
    let suffix = &app[app.len() - 6..];
    let host = format!("shop-default-pr-7-{suffix}.zectre.localhost");
    assert_eq!(opened["url"], format!("http://{host}:47000"));
    let routed = async || -> Vec<String> {
        let routes = sqlx::query_scalar(
            "SELECT r.domain FROM routes r JOIN environments e ON e.id = r.environment_id WHERE e.slug = 'pr-7'",
        );
        routes.fetch_all(&api.pool).await.expect("there")
    };
    assert_eq!(routed().await, [host.as_str()]);
    assert!(rows::epoch(&api.pool).await > epoch);
    let pushed = send(pull_request("synchronize", "open", "acme/shop", 2)).await;
    assert_eq!(
        (&pushed["outcome"], &pushed["url"]),
        (&json!("deployed"), &opened["url"])
    );
    assert_eq!(connected.builds().await.len(), 2);
    let fork = send(pull_request("opened", "open", "mallory/shop", 3)).await;
    assert_eq!(fork["outcome"], "ignored");
    let deployment: Uuid = pushed["deployment_id"]
        .as_str()
        .expect("an id")
        .parse()
        .expect("an id");
    let closed = send(pull_request("closed", "closed", "acme/shop", 4)).await;
    assert_eq!(closed["outcome"], "removed");
    assert_eq!(environments(api, app).await, ["production", "development"]);
    assert_eq!(routed().await, Vec::<String>::new());
    assert!(
        rows::operations(&api.pool, deployment)
            .await
            .contains(&"delete".to_owned())
    );
    // A late call brings nothing back, whatever it took the pull request for; a new life begins anew, and a late end doesn't end it.
    let knows = send(pull_request("synchronize", "closed", "acme/shop", 5)).await;
    assert_eq!(knows["outcome"], "ignored");
    is_late(&send(pull_request("synchronize", "open", "acme/shop", 3)).await);
    assert_eq!(routed().await, Vec::<String>::new());
    let reopened = send(pull_request("reopened", "open", "acme/shop", 7)).await;
    assert_eq!(reopened["outcome"], "deployed");
    is_late(&send(pull_request("closed", "closed", "acme/shop", 6)).await);
    assert_eq!(routed().await, [host.as_str()]);
    connected.api.stop().await;
}
