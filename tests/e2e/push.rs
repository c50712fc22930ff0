//! A push, told by the forge's own call, becomes a served version; a pull request becomes a preview at a URL of its own.

use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use std::time::Duration;
use zectre_e2e::{App, Daemons, Http, Settings};
use zectre_service::key::to_hex;
use zectre_testkit::{FORGE_TOKEN, Forge, wait_until};

const SECRET: &str = "what-the-forge-signs-with";

/// A program that says which version it is.
fn program(version: &str) -> String {
    format!(
        "fn handleRequest(req) {{\n  return {{ status: 200, body: \"version {version}\" }}\n}}\n\
         serve(parseInt(process.env.PORT), handleRequest)\n"
    )
}

/// A call as the forge sends it; what came of it for the one application.
async fn tell(http: &Http, event: &str, delivery: u32, mut payload: Value, forge: &Forge) -> Value {
    payload["repository"] = json!({ "clone_url": forge.repository(), "full_name": "acme/shop" });
    payload["sender"] = json!({ "login": "ann" });
    let body = payload.to_string();
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length");
    mac.update(body.as_bytes());
    // Its signature is all that it has to show.
    let request = http
        .with_key("")
        .request(Method::POST, "/api/v1/webhooks/github")
        .header("Content-Type", "application/json")
        .header("X-GitHub-Event", event)
        .header("X-GitHub-Delivery", format!("delivery-{delivery}"))
        .header(
            "X-Hub-Signature-256",
            format!("sha256={}", to_hex(&mac.finalize().into_bytes())),
        );
    let answer = request.body(body).send().await.expect("the API answers");
    let status = answer.status();
    let done: Value = answer.json().await.expect("JSON");
    assert_eq!(status, 202, "{done}");
    done["results"][0].clone()
}

fn pull_request(action: &str, state: &str, head: &str) -> Value {
    json!({
        "action": action, "number": 7,
        "pull_request": { "number": 7, "state": state,
                          "head": { "sha": head, "repo": { "full_name": "acme/shop" } } },
    })
}

#[tokio::test]
async fn a_push_is_served_and_a_pull_request_has_a_preview_until_it_is_closed() {
    let forge = Forge::start().await;
    let first = forge.commit(&[("web/src/main.tish", &program("one"))]);
    let sources = ("build", "git_sources", format!("[{:?}]", forge.url));
    let platform = Daemons::start_with(Settings::default(), &[sources]).await;
    let http = platform.http();
    let app = App::create(&http, "shop").await;
    let source = json!({ "repository": forge.repository(), "token": FORGE_TOKEN, "webhook_secret": SECRET, "root_dir": "web" });
    http.send(Method::PUT, &format!("/apps/{}/source", app.id), source)
        .await
        .expect(200);

    let push = json!({ "ref": "refs/heads/main", "after": first });
    let pushed = tell(&http, "push", 1, push, &forge).await;
    let deployment = pushed["deployment_id"].as_str().expect("it is deployed");
    app.outcome(deployment).await.succeeded();
    assert_eq!(http.app(&app.subdomain, "/").await.text(), "version one");

    forge.git(&["checkout", "--quiet", "-b", "better"], "work");
    let better = forge.commit(&[("web/src/main.tish", &program("two"))]);
    let opened = tell(
        &http,
        "pull_request",
        2,
        pull_request("opened", "open", &better),
        &forge,
    )
    .await;
    let preview = opened["deployment_id"].as_str().expect("it is deployed");
    let url = opened["url"].as_str().expect("it has a URL");
    let host = url.split_once("://").expect("a URL").1;
    let label = host.split('.').next().expect("a name");
    app.outcome(preview).await.succeeded();
    assert_eq!(http.app(label, "/").await.text(), "version two");
    assert_eq!(http.app(&app.subdomain, "/").await.text(), "version one");
    // It sleeps like anything else, and a request at its host wakes it.
    http.post(&format!("/deployments/{preview}/sleep"), json!({}))
        .await
        .expect_ok();
    app.wait_asleep(preview).await;
    assert_eq!(http.app(label, "/").await.text(), "version two");

    let closed = pull_request("closed", "closed", &better);
    tell(&http, "pull_request", 3, closed, &forge).await;
    wait_until(Duration::from_secs(60), "the preview is gone", async || {
        (http.app(label, "/").await.status == 404).then_some(())
    })
    .await;
    assert_eq!(http.app(&app.subdomain, "/").await.text(), "version one");
}
