//! Calls of forges among strangers: anyone may name anyone's repository, and an old call may come again.

use super::{COMMIT, Connected, REPOSITORY, SECRET, call_with, connect, pull_request, push, signature};
use crate::{harness::Harness, rows};
use serde_json::json;

/// Applications of strangers whose source is the same repository: more than are looked at of one organization.
const STRANGERS: usize = 55;

#[tokio::test]
async fn strangers_that_name_a_repository_take_no_call_from_its_owner() {
    let api = Harness::start().await;
    let stranger = rows::organization(&api.pool).await;
    // Older than the owner's, and so before it wherever they are sorted by id.
    for n in 0..STRANGERS {
        let body = json!({ "name": format!("n{n}"), "namespace": stranger.slug });
        let theirs = api.post("/apps", body).await.expect(201).id();
        let source = json!({ "repository": REPOSITORY, "webhook_secret": "a-secret-of-theirs" });
        connect(&api, &theirs, source).await.expect(200);
    }
    let app = api.app("shop").await;
    let connected = Connected { api, app };
    connected.connect(REPOSITORY, json!({})).await;
    let result = connected.send("push", &push("main", COMMIT)).await;
    assert_eq!(result["outcome"], "deployed", "{result}");
    assert_eq!(connected.builds().await.len(), 1);
    connected.api.stop().await;
}

#[tokio::test]
async fn a_call_without_anything_like_a_signature_is_refused_before_it_is_read() {
    let api = Harness::start().await;
    for signature in ["", "sha256=", "sha1=0123", "sha256=xyz"] {
        // What is no JSON would be told to be none, if anybody had looked.
        let answer = call_with(&api, "push", "one", signature, "{").await;
        assert_eq!(answer.expect(401).code(), "INVALID_SIGNATURE");
    }
    let answer = call_with(&api, "push", "one", &signature(SECRET, "{"), "{").await;
    assert_eq!(answer.expect(400).code(), "INVALID_WEBHOOK");
    api.stop().await;
}

#[tokio::test]
async fn an_old_call_about_a_pull_request_is_no_news_once_nobody_remembers_it() {
    let connected = Connected::start().await;
    let year_secs = 366 * 24 * 3_600;
    let old = pull_request("opened", "open", "Acme/Shop", -year_secs);
    // As after a year: nothing is kept of the call, of its body, or of the pull request.
    let result = connected.send("pull_request", &old).await;
    assert_eq!(result["outcome"], "ignored", "{result}");
    assert!(
        result["message"].as_str().expect("a text").contains("no news"),
        "{result}"
    );
    assert_eq!(connected.builds().await.len(), 0);
    // Nor is one of a clock that is wrong: every call after it would be late. Whatever number it is told by.
    for secs in [i64::MAX / 1_000, i64::MIN / 1_000, -1, 253_402_300_799] {
        let mut push = push("main", COMMIT);
        push["repository"]["pushed_at"] = secs.into();
        let result = connected.send("push", &push).await;
        assert_eq!(result["outcome"], "ignored", "{secs}: {result}");
    }
    let mut told = pull_request("opened", "open", "Acme/Shop", 0);
    told["pull_request"]["updated_at"] = "-009999-06-01T00:00:00Z".into();
    // Which says no time at all: what it tells counts as it comes.
    assert_eq!(connected.send("pull_request", &told).await["outcome"], "deployed");
    assert_eq!(
        connected.send("push", &push("main", COMMIT)).await["outcome"],
        "deployed"
    );
    let new = pull_request("opened", "open", "Acme/Shop", 0);
    assert_eq!(connected.send("pull_request", &new).await["outcome"], "deployed");
    connected.api.stop().await;
}
