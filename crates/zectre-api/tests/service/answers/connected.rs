//! What the world outside knows of an application: its repository, its domains, and those who are told what happens.

use super::walk::{By, Walk, text};
use crate::{
    custom_domains::record,
    forge::{COMMIT, push, signature},
    webhooks::{Receiver, delivery},
};
use serde_json::{Value, json};
use std::time::Duration;
use zectre_testkit::{DnsServer, wait_until};

const SOON: Duration = Duration::from_secs(60);

pub(super) async fn source(walk: &mut Walk) {
    let app = walk.api.app("repository").await;
    let source = json!({
        "repository": "https://github.com/acme/shop", "branches": { "main": "production" }, "root_dir": "web",
        "token": "ghp_canary",
    });
    let set = walk
        .call("PUT /apps/{id}/source", &[&app])
        .json(&source)
        .answers(200)
        .await;
    walk.call("GET /apps/{id}/source", &[&app]).answers(200).await;
    let pushed = push("main", COMMIT);
    let signature = signature(&text(&set, "webhook_secret"), &pushed.to_string());
    walk.call("POST /webhooks/github", &[])
        .by(&By::Nobody)
        .quiet_header("X-GitHub-Event", "push")
        .quiet_header("X-GitHub-Delivery", "first")
        .quiet_header("X-Hub-Signature-256", &signature)
        .json(&pushed)
        .answers(202)
        .await;
    walk.call("DELETE /apps/{id}/source", &[&app]).answers(204).await;
}

/// A name that is claimed before its record is there.
pub(super) async fn domains(walk: &mut Walk, dns: &DnsServer) {
    let app = walk.api.app("names").await;
    let domain = "shop.example.com";
    let claim = json!({ "domain": domain, "environment": "production" });
    let claimed = walk
        .call("POST /apps/{id}/custom-domains", &[&app])
        .json(&claim)
        .answers(201)
        .await;
    looked_at(walk, domain).await;
    walk.call("GET /apps/{id}/custom-domains", &[&app])
        .answers(200)
        .await;
    let (name, value) = record(&claimed);
    dns.add_txt(&name, &value);
    walk.call("POST /apps/{id}/custom-domains/{domain}/verify", &[&app, domain])
        .answers(200)
        .await;
    walk.call("DELETE /apps/{id}/custom-domains/{domain}", &[&app, domain])
        .answers(204)
        .await;
}

/// The look that every claim gets by itself has been, and the next one is far away.
async fn looked_at(walk: &Walk, domain: &str) {
    let later = "UPDATE custom_domains SET next_check_at = now() + interval '1 day'
                 WHERE domain = $1 AND checked_at IS NOT NULL";
    wait_until(SOON, "the claim is looked at", async || {
        let done = sqlx::query(later).bind(domain).execute(&walk.api.pool).await;
        (done.expect("the database is there").rows_affected() > 0).then_some(())
    })
    .await;
}

pub(super) async fn webhooks(walk: &mut Walk, receiver: &Receiver) {
    let app = walk.api.app("told").await;
    let hook = json!({ "url": receiver.url(), "application_id": app, "events": ["environment.*"] });
    let made = walk.call("POST /webhooks", &[]).json(&hook).answers(201).await;
    let id = text(&made, "id");
    let path = format!("/apps/{app}/environments");
    walk.api
        .post(&path, json!({ "slug": "staging" }))
        .await
        .expect(201);
    let is_done = |one: &Value| one["state"] == "delivered";
    let delivered = text(&delivery(&walk.api, &id, is_done).await, "id");
    walk.call("GET /webhooks?application_id={a}", &[&app])
        .answers(200)
        .await;
    walk.call("GET /webhooks/{id}", &[&id]).answers(200).await;
    walk.call("GET /webhooks/{id}/deliveries", &[&id])
        .answers(200)
        .await;
    walk.call("POST /webhooks/{id}/enable", &[&id]).answers(200).await;
    walk.call(
        "POST /webhooks/{id}/deliveries/{delivery}/redeliver",
        &[&id, &delivered],
    )
    .answers(202)
    .await;
    delivery(&walk.api, &id, is_done).await;
    walk.call("DELETE /webhooks/{id}", &[&id]).answers(204).await;
}
