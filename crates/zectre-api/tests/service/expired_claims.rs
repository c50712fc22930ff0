//! Claims of domains whose time is over, or comes to that.

use crate::custom_domains::{SOON, Site, actions, api_asking, claim, record, routes, verify};
use serde_json::json;
use zectre_testkit::{DnsServer, wait_until};

#[tokio::test]
async fn a_claim_is_looked_at_by_itself_until_it_is_forgotten() {
    let (dns, site) = (DnsServer::start().await, Site::start().await);
    let api = api_asking(&dns, &site, "").await;
    let app = api.app("hello").await;
    let path = format!("/apps/{app}/custom-domains");
    let made = api
        .post(&path, json!({ "domain": "shop.example.com" }))
        .await
        .expect(201)
        .json();
    let (name, value) = record(&made);
    dns.add_txt(&name, &value);
    wait_until(SOON, "the domain is verified", async || {
        let listed = api.get(&path).await.expect(200).json();
        (listed["data"][0]["state"] == "verified").then_some(())
    })
    .await;
    api.post(&path, json!({ "domain": "late.example.com" }))
        .await
        .expect(201);
    sqlx::query("UPDATE custom_domains SET expires_at = now() - interval '1 second'")
        .execute(&api.pool)
        .await
        .expect("the database is there");
    wait_until(SOON, "the claim is forgotten", async || {
        let listed = api.get(&path).await.expect(200).json();
        (listed["total"] == 1).then_some(())
    })
    .await;
    assert_eq!(routes(&api).await, ["shop.example.com"], "what is verified stays");
    assert_eq!(
        actions(&api, &app).await,
        [
            "domain.claimed",
            "domain.verified",
            "domain.claimed",
            "domain.expired"
        ]
    );
    api.stop().await;
}

#[tokio::test]
async fn a_claim_whose_time_is_over_is_verified_by_nothing_though_it_is_still_there() {
    let (dns, site) = (DnsServer::start().await, Site::start().await);
    let api = api_asking(&dns, &site, "").await;
    let app = api.app("hello").await;
    let (name, value) = record(&claim(&api, &app, "late.example.com").await);
    let mut held = api.pool.begin().await.expect("the database is there");
    // At once, and due; as long as it is locked it is neither forgotten nor looked at by itself.
    sqlx::query("UPDATE custom_domains SET expires_at = now() - interval '1 second', next_check_at = now()")
        .execute(&api.pool)
        .await
        .expect("the database is there");
    sqlx::query("SELECT FROM custom_domains FOR UPDATE")
        .execute(&mut *held)
        .await
        .expect("the database is there");
    dns.add_txt(&name, &value);
    let answer = verify(&api, &app, "late.example.com").await.expect(404);
    assert_eq!(answer.code(), "DOMAIN_NOT_FOUND");
    assert_eq!(routes(&api).await, Vec::<String>::new());
    held.rollback().await.expect("the database is there");
    api.stop().await;
}

#[tokio::test]
async fn a_claim_whose_time_is_over_is_in_nobodys_way() {
    let (dns, site) = (DnsServer::start().await, Site::start().await);
    let api = api_asking(&dns, &site, "").await;
    let app = api.app("hello").await;
    let path = format!("/apps/{app}/custom-domains");
    // A round that forgets it may come in between, but not each time.
    let names = ["one.example.com", "two.example.com", "three.example.com"];
    for name in names {
        let first = claim(&api, &app, name).await;
        sqlx::query("UPDATE custom_domains SET expires_at = now() - interval '1 second' WHERE domain = $1")
            .bind(name)
            .execute(&api.pool)
            .await
            .expect("the database is there");
        let second = api
            .post(&path, json!({ "domain": name }))
            .await
            .expect(201)
            .json();
        assert_ne!(record(&first), record(&second), "it is a claim of its own");
        let third = api.post(&path, json!({ "domain": name })).await.expect(409);
        assert_eq!(third.code(), "DOMAIN_EXISTS");
    }
    assert_eq!(api.get(&path).await.json()["total"], names.len());
    let told = ["domain.claimed", "domain.expired", "domain.claimed"];
    assert_eq!(actions(&api, &app).await, told.repeat(names.len()));
    api.stop().await;
}
