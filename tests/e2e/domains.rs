//! A domain of one's own: it leads nowhere before it is shown to be its owner's, and then to the application.

use serde_json::{Value, json};
use std::{net::Ipv4Addr, time::Duration};
use zectre_e2e::{App, Daemons, Http, Settings, server_program};
use zectre_testkit::{DnsServer, wait_until};

/// A platform that asks `dns`, and looks for pages where its own proxy listens.
async fn platform(dns: &DnsServer) -> Daemons {
    let settings = Settings::default();
    let proxy_port = settings.proxy_port;
    let entries = [
        ("domains", "dns_server", format!("'{}'", dns.address)),
        ("domains", "http_port", proxy_port.to_string()),
        ("domains", "private_addresses", "true".to_owned()),
    ];
    Daemons::start_with(settings, &entries).await
}

async fn claim(http: &Http, app: &App, domain: &str) -> Value {
    let path = format!("/apps/{}/custom-domains", app.id);
    let made = http
        .post(&path, json!({"domain": domain, "environment": "production"}))
        .await
        .expect(201);
    assert_eq!(made["state"], "pending");
    made
}

/// Waits until the proxy answers for `domain` with this status: it learns of changes by itself.
async fn answers(http: &Http, domain: &str, status: u16) -> String {
    wait_until(Duration::from_secs(60), domain, async || {
        let answer = http.app(domain, "/").await;
        (answer.status == status).then(|| answer.text())
    })
    .await
}

/// Waits until the proxy answers the page that shows whose `domain` is.
async fn page_is_up(http: &Http, claim: &Value, domain: &str) {
    let url = claim["verification"]["http"]["url"].as_str().expect("a page");
    let page = &url[url.find("/.well-known").expect("a well-known place")..];
    wait_until(Duration::from_secs(60), "the proxy knows the claim", async || {
        (http.app(domain, page).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_domain_leads_to_its_application_once_it_is_verified() {
    let dns = DnsServer::start().await;
    let platform = platform(&dns).await;
    let http = platform.http();
    let app = App::create(&http, "shop").await;
    app.deploy_program(
        &server_program(),
        json!({"environment": "production", "env": {"GREETING": "shop"}}),
    )
    .await
    .succeeded();

    // By a record. Before it is there, the name leads nowhere, and verifying says what is missing.
    let made = claim(&http, &app, "shop.example.com").await;
    assert!(
        answers(&http, "shop.example.com", 404)
            .await
            .contains("UNKNOWN_HOST")
    );
    let verify = format!("/apps/{}/custom-domains/shop.example.com/verify", app.id);
    let missing = http.post(&verify, json!({})).await;
    assert_eq!(missing.status, 409, "{}", missing.text());
    assert!(
        missing.text().contains("_zectre.shop.example.com"),
        "{}",
        missing.text()
    );
    let record = &made["verification"]["dns"];
    let text = |field: &str| record[field].as_str().expect("a text").to_owned();
    dns.add_txt(&text("name"), &text("value"));
    assert_eq!(
        http.post(&verify, json!({})).await.expect(200)["state"],
        "verified"
    );
    assert!(answers(&http, "shop.example.com", 200).await.starts_with("shop "));

    // By a page, which the proxy answers itself for a name that points at it; by the command this time.
    let made = claim(&http, &app, "www.example.com").await;
    dns.add_address("www.example.com", Ipv4Addr::LOCALHOST.into());
    page_is_up(&http, &made, "www.example.com").await;
    let directory = platform.directory();
    let run = async |words: &[&str]| platform.cli().run(directory, words).await;
    let verified = run(&["domains", "verify", "www.example.com", "--project", "shop"]).await;
    assert!(
        verified.success().contains("www.example.com"),
        "{}",
        verified.success()
    );
    assert!(answers(&http, "www.example.com", 200).await.starts_with("shop "));
    let listed = run(&["domains", "list", "--project", "shop", "--json"]).await;
    let listed: Value = serde_json::from_str(listed.success()).expect("JSON");
    let states: Vec<_> = listed
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["state"])
        .collect();
    assert_eq!(states, ["verified", "verified"]);

    // Given up, it leads nowhere again.
    run(&["domains", "rm", "www.example.com", "--project", "shop"])
        .await
        .success();
    assert!(
        answers(&http, "www.example.com", 404)
            .await
            .contains("UNKNOWN_HOST")
    );
    assert!(answers(&http, "shop.example.com", 200).await.starts_with("shop "));
}
