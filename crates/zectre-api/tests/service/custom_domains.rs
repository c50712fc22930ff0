//! Custom domains, against a DNS server and a web server of the test's own.

use crate::{
    harness::{Harness, normal},
    rows,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use zectre_testkit::{DnsServer, wait_until};

pub(crate) const SOON: Duration = Duration::from_secs(60);
const HERE: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A web server that answers whatever it is told to, and remembers what it was asked.
pub(crate) struct Site {
    address: SocketAddr,
    answer: Arc<Mutex<String>>,
    asked: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl Site {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let (answer, asked) = (
            Arc::<Mutex<String>>::default(),
            Arc::<Mutex<Vec<String>>>::default(),
        );
        let (told, heard) = (Arc::clone(&answer), Arc::clone(&asked));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
                heard
                    .lock()
                    .expect("not poisoned")
                    .push(String::from_utf8_lossy(&head).into_owned());
                let answer = told.lock().expect("not poisoned").clone();
                // Whoever asks may hang up as soon as it has read enough.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self {
            address,
            answer,
            asked,
            _serving: serving,
        }
    }

    fn says(&self, answer: &str) {
        answer.clone_into(&mut self.answer.lock().expect("not poisoned"));
    }

    fn says_page(&self, text: &str) {
        self.says(&format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        ));
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("not poisoned"))
    }
}

/// An API that asks this DNS server, and looks for pages where the site listens.
pub(crate) async fn api_asking(dns: &DnsServer, site: &Site, more: &str) -> Harness {
    let port = site.address.port();
    Harness::start_with(&format!(
        "domains.dns_server = '{}'\ndomains.http_port = {port}\n{more}",
        dns.address
    ))
    .await
}

const PRIVATE: &str = "domains.private_addresses = true";

/// A claim that nobody but the test looks at.
pub(crate) async fn claim(api: &Harness, app: &str, domain: &str) -> Value {
    let made = api
        .post(
            &format!("/apps/{app}/custom-domains"),
            json!({ "domain": domain }),
        )
        .await
        .expect(201)
        .json();
    // The look that every claim gets by itself has been, and the next one is far away.
    wait_until(SOON, "the claim is looked at", async || {
        let row = sqlx::query("UPDATE custom_domains SET next_check_at = now() + interval '1 day' WHERE domain = $1 AND checked_at IS NOT NULL")
            .bind(domain)
            .execute(&api.pool)
            .await
            .expect("the database is there");
        (row.rows_affected() > 0).then_some(())
    })
    .await;
    made
}

pub(crate) async fn verify(api: &Harness, app: &str, domain: &str) -> crate::harness::Answer {
    api.act(&format!("/apps/{app}/custom-domains/{domain}/verify"))
        .await
}

pub(crate) async fn routes(api: &Harness) -> Vec<String> {
    sqlx::query_scalar("SELECT domain FROM routes ORDER BY domain")
        .fetch_all(&api.pool)
        .await
        .expect("the database is there")
}

pub(crate) async fn actions(api: &Harness, app: &str) -> Vec<String> {
    let events = api
        .get(&format!("/events?application_id={app}&page_size=100"))
        .await;
    let events = events.expect(200).json();
    let events = events["data"].as_array().expect("a list").iter();
    let mut actions: Vec<String> = events
        .map(|event| event["action"].as_str().expect("a text").to_owned())
        .filter(|action| action.starts_with("domain."))
        .collect();
    actions.reverse();
    actions
}

fn token(claim: &Value) -> String {
    claim["verification"]["http"]["text"]
        .as_str()
        .expect("a text")
        .to_owned()
}

pub(crate) fn record(claim: &Value) -> (String, String) {
    let dns = &claim["verification"]["dns"];
    let text = |key: &str| dns[key].as_str().expect("a text").to_owned();
    (text("name"), text("value"))
}

/// The claim as it is snapshotted.
fn shown(claim: &Value, site: &Site) -> Value {
    let mut shown = normal(claim);
    let token = token(claim);
    assert_eq!(token.len(), 32);
    let verification = claim["verification"]
        .to_string()
        .replace(&token, "[token]")
        .replace(&site.address.port().to_string(), "[port]");
    shown["verification"] = serde_json::from_str(&verification).expect("it was JSON");
    shown
}

#[tokio::test]
async fn a_domain_routes_once_its_record_is_there() {
    let (dns, site) = (DnsServer::start().await, Site::start().await);
    let api = api_asking(&dns, &site, "").await;
    let app = api.app("hello").await;
    let path = format!("/apps/{app}/custom-domains");
    let made = claim(&api, &app, "shop.example.com").await;
    insta::assert_json_snapshot!("custom_domain", shown(&made, &site));
    assert_eq!(routes(&api).await, Vec::<String>::new());

    let answer = verify(&api, &app, "Shop.Example.COM").await.expect(409);
    answer.shows("DOMAIN_NOT_VERIFIED");
    let detail = answer.json()["detail"].as_str().expect("a text").to_owned();
    assert!(
        detail.contains("there is no TXT record `_zectre.shop.example.com`")
            && detail.contains("`shop.example.com` has no address"),
        "{detail}"
    );
    let (name, value) = record(&made);
    dns.add_txt(&name, "zectre-verification=somebodyelses");
    let answer = verify(&api, &app, "shop.example.com").await.expect(409).json();
    assert!(
        answer["detail"]
            .as_str()
            .expect("a text")
            .contains("does not say"),
        "{answer}"
    );
    let listed = api.get(&path).await.expect(200).json();
    assert_eq!(listed["data"][0]["problem"], answer["detail"]);

    dns.add_txt(&name, &value);
    let before = rows::epoch(&api.pool).await;
    let verified = verify(&api, &app, "shop.example.com").await.expect(200).json();
    assert_eq!(
        (
            &verified["state"],
            &verified["proof"],
            &verified["verification"],
            &verified["problem"]
        ),
        (&json!("verified"), &json!("dns"), &Value::Null, &Value::Null)
    );
    assert!(rows::epoch(&api.pool).await > before, "proxies are told");
    assert_eq!(routes(&api).await, ["shop.example.com"]);
    // A second time changes nothing, and needs the record no more.
    dns.forget(&name);
    verify(&api, &app, "shop.example.com").await.expect(200);

    let delete = async || {
        api.call(
            &api.admin,
            Method::DELETE,
            &format!("{path}/shop.example.com"),
            None,
        )
        .await
    };
    let before = rows::epoch(&api.pool).await;
    delete().await.expect(204);
    assert!(rows::epoch(&api.pool).await > before, "proxies are told");
    assert_eq!(routes(&api).await, Vec::<String>::new());
    assert_eq!(delete().await.expect(404).code(), "DOMAIN_NOT_FOUND");
    assert_eq!(
        actions(&api, &app).await,
        ["domain.claimed", "domain.verified", "domain.removed"]
    );
    api.stop().await;
}

#[tokio::test]
async fn a_page_under_the_name_shows_it_too() {
    let (dns, site) = (DnsServer::start().await, Site::start().await);
    let api = api_asking(&dns, &site, PRIVATE).await;
    let app = api.app("hello").await;
    site.says_page("welcome");
    dns.add_address("shop.example.com", HERE);
    let made = claim(&api, &app, "shop.example.com").await;
    let refused = async |why: &str| {
        let answer = verify(&api, &app, "shop.example.com").await.expect(409).json();
        let detail = answer["detail"].as_str().expect("a text");
        assert!(detail.contains(why), "{detail}");
    };
    refused("holds something else than the token").await;
    site.says("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    refused("answers 404 Not Found").await;
    // Redirects lead wherever someone else wants: not followed.
    let elsewhere = Site::start().await;
    elsewhere.says_page(&token(&made));
    site.says(&format!(
        "HTTP/1.1 302 Found\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n",
        elsewhere.address
    ));
    refused("answers 302 Found").await;
    assert_eq!(elsewhere.asked(), Vec::<String>::new());
    // No more is read than a token has, however much comes.
    site.says(&format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(4 << 20)));
    refused("holds something else").await;
    site.asked();
    site.says_page(&format!("{}\n", token(&made)));
    let verified = verify(&api, &app, "shop.example.com").await.expect(200).json();
    assert_eq!(verified["proof"], "http");
    let asked = site.asked();
    assert!(
        asked[0].starts_with(&format!(
            "GET /.well-known/zectre-verification/{} HTTP/1.1\r\n",
            token(&made)
        )) && asked[0].contains(&format!("host: shop.example.com:{}\r\n", site.address.port())),
        "{asked:?}"
    );
    assert_eq!(routes(&api).await, ["shop.example.com"]);
    api.stop().await;
}

#[tokio::test]
async fn a_look_that_ends_after_another_verified_the_claim_neither_complains_nor_weakens_it() {
    let (dns, site) = (
        DnsServer::start().await,
        TcpListener::bind("127.0.0.1:0").await.expect("a port is free"),
    );
    let port = site.local_addr().expect("a listener has an address").port();
    let server = dns.address;
    let api = Harness::start_with(&format!(
        "domains.dns_server = '{server}'\ndomains.http_port = {port}\n{PRIVATE}"
    ))
    .await;
    let app = api.app("hello").await;
    for (domain, holds_token) in [("shop.example.com", false), ("www.example.com", true)] {
        let made = claim(&api, &app, domain).await;
        dns.add_address(domain, HERE);
        let page = if holds_token {
            token(&made)
        } else {
            "welcome to the shop".to_owned()
        };
        let slow = verify(&api, &app, domain);
        let overtaken = async {
            let (mut stream, _) = site.accept().await.expect("the page is asked for");
            let (name, value) = record(&made);
            dns.add_txt(&name, &value);
            assert_eq!(
                verify(&api, &app, domain).await.expect(200).json()["proof"],
                "dns"
            );
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}", page.len());
            stream
                .write_all(answer.as_bytes())
                .await
                .expect("it waits for the page");
            stream
        };
        let (answer, _stream) = tokio::join!(slow, overtaken);
        let domain = answer.expect(200).json();
        assert_eq!(
            (&domain["state"], &domain["proof"]),
            (&json!("verified"), &json!("dns"))
        );
    }
    let verified = actions(&api, &app)
        .await
        .into_iter()
        .filter(|action| action == "domain.verified");
    assert_eq!(verified.count(), 2, "each is told of once");
    api.stop().await;
}

#[tokio::test]
async fn nothing_inside_is_reached_by_claiming_a_name_that_points_there() {
    let (dns, site) = (DnsServer::start().await, Site::start().await);
    let api = api_asking(&dns, &site, "").await;
    let app = api.app("hello").await;
    dns.add_address("inside.example.com", HERE);
    let made = claim(&api, &app, "inside.example.com").await;
    site.says_page(&token(&made));
    let answer = verify(&api, &app, "inside.example.com").await.expect(409).json();
    let detail = answer["detail"].as_str().expect("a text");
    assert!(
        detail.contains("`inside.example.com` leads to no public address") && !detail.contains("127.0.0.1"),
        "what the cluster's own DNS says is nobody's business: {detail}"
    );
    let shown = api
        .get(&format!("/apps/{app}/custom-domains"))
        .await
        .expect(200)
        .text;
    assert!(
        shown.contains("no public address") && !shown.contains("127.0.0.1"),
        "{shown}"
    );
    assert_eq!(site.asked(), Vec::<String>::new());
    api.stop().await;
}

#[tokio::test]
async fn a_claim_keeps_nobody_from_their_own_name() {
    let (dns, site) = (DnsServer::start().await, Site::start().await);
    let api = api_asking(&dns, &site, PRIVATE).await;
    let (squatter, owner) = (api.app("squatter").await, api.app("owner").await);
    let squat = claim(&api, &squatter, "shop.example.com").await;
    // The owner's DNS points at the cluster, whose proxies would answer the page of the one claim there is.
    dns.add_address("shop.example.com", HERE);
    site.says_page(&token(&squat));
    verify(&api, &squatter, "shop.example.com").await.expect(200);
    let own = claim(&api, &owner, "shop.example.com").await;
    // A page says less than nothing now; a record in the zone takes the name.
    site.says_page(&token(&own));
    let taken = verify(&api, &owner, "shop.example.com").await.expect(409);
    assert_eq!(taken.code(), "DOMAIN_TAKEN");
    assert!(
        taken.text.contains("only a TXT record takes it"),
        "{}",
        taken.text
    );
    let (name, value) = record(&own);
    dns.add_txt(&name, &value);
    verify(&api, &owner, "shop.example.com").await.expect(200);
    let leads_to: uuid::Uuid =
        sqlx::query_scalar("SELECT application_id FROM routes WHERE domain = 'shop.example.com'")
            .fetch_one(&api.pool)
            .await
            .expect("one route");
    assert_eq!(leads_to.to_string(), owner);
    assert_eq!(
        actions(&api, &squatter).await,
        ["domain.claimed", "domain.verified", "domain.lost"]
    );
    let events = api
        .get(&format!("/events?application_id={squatter}&action=domain.lost"))
        .await
        .json();
    assert_eq!(
        events["data"][0]["actor"], "zectre-api",
        "who took it is nobody's business"
    );
    // And nobody takes it from there, by whatever record.
    dns.add_txt(&name, &record(&squat).1);
    let refused = verify(&api, &squatter, "shop.example.com").await.expect(409);
    refused.shows("DOMAIN_TAKEN");
    api.stop().await;
}

#[tokio::test]
async fn where_the_cluster_asks_for_no_proof_the_first_to_claim_has_it() {
    let api = Harness::start_with("domains.verification = 'off'").await;
    let (first, second) = (api.app("first").await, api.app("second").await);
    let path = |app: &str| format!("/apps/{app}/custom-domains");
    let body = json!({ "domain": "shop.example.com", "environment": "development" });
    let made = api.post(&path(&first), body.clone()).await.expect(201).json();
    assert_eq!(
        (&made["state"], &made["proof"], &made["environment"]),
        (&json!("verified"), &json!("none"), &json!("development"))
    );
    assert_eq!(routes(&api).await, ["shop.example.com"]);
    assert_eq!(
        api.post(&path(&second), body.clone()).await.expect(409).code(),
        "DOMAIN_TAKEN"
    );
    assert_eq!(api.get(&path(&second)).await.json()["total"], 0);
    assert_eq!(
        api.post(&path(&first), body.clone()).await.expect(409).code(),
        "DOMAIN_EXISTS"
    );
    api.call(&api.admin, Method::DELETE, &format!("/apps/{first}"), None)
        .await
        .expect(204);
    assert_eq!(routes(&api).await, Vec::<String>::new());
    api.post(&path(&second), body).await.expect(201);
    api.stop().await;
}

#[tokio::test]
async fn only_records_count_where_the_cluster_says_so() {
    let (dns, site) = (DnsServer::start().await, Site::start().await);
    let api = api_asking(
        &dns,
        &site,
        "domains.private_addresses = true\ndomains.verification = 'dns'",
    )
    .await;
    let app = api.app("hello").await;
    dns.add_address("shop.example.com", HERE);
    let made = claim(&api, &app, "shop.example.com").await;
    assert_eq!(made["verification"]["http"], Value::Null);
    let (name, value) = record(&made);
    site.says_page(value.strip_prefix("zectre-verification=").expect("its form"));
    verify(&api, &app, "shop.example.com").await.expect(409);
    assert_eq!(site.asked(), Vec::<String>::new());
    dns.add_txt(&name, &value);
    verify(&api, &app, "shop.example.com").await.expect(200);
    api.stop().await;
}

#[tokio::test]
async fn what_can_not_be_claimed_is_told_why() {
    let api = Harness::start_with("domains.verification = 'off'").await;
    let app = api.app("hello").await;
    let path = format!("/apps/{app}/custom-domains");
    for (domain, why) in [
        ("hello-default.zectre.localhost", "are given out by the platform"),
        ("*.example.com", "wildcard"),
        ("http://example.com/", "leave out"),
        ("10.0.0.1", "not an IP address"),
        ("a\u{0}.example.com", "not a host name"),
    ] {
        let answer = api.post(&path, json!({ "domain": domain })).await.expect(400);
        assert_eq!(answer.code(), "INVALID_INPUT");
        let problem = answer.json();
        assert_eq!(problem["errors"][0]["field"], "domain");
        assert!(
            problem["errors"][0]["message"]
                .as_str()
                .expect("a text")
                .contains(why),
            "{problem}"
        );
    }
    for slug in ["nowhere", "a\u{0}b", "\u{1b}[2J"] {
        let body = json!({ "domain": "shop.example.com", "environment": slug });
        assert_eq!(
            api.post(&path, body).await.expect(404).code(),
            "ENVIRONMENT_NOT_FOUND"
        );
    }
    assert_eq!(
        verify(&api, &app, "%00").await.expect(404).code(),
        "DOMAIN_NOT_FOUND"
    );
    assert_eq!(
        verify(&api, &app, "shop.example.com").await.expect(404).code(),
        "DOMAIN_NOT_FOUND"
    );
    assert_eq!(
        api.get(&format!("{path}?environment=%00"))
            .await
            .expect(400)
            .code(),
        "INVALID_QUERY"
    );
    api.stop().await;
}

#[tokio::test]
async fn an_application_has_a_bound_and_an_environment_gives_its_names_up() {
    let api = Harness::start_with("domains.verification = 'off'").await;
    let app = api.app("hello").await;
    let path = format!("/apps/{app}/custom-domains");
    api.post(&format!("/apps/{app}/environments"), json!({ "slug": "staging" }))
        .await
        .expect(201);
    let staging = json!({ "domain": "staging.example.com", "environment": "staging" });
    api.post(&path, staging).await.expect(201);
    for n in 1..50 {
        api.post(&path, json!({ "domain": format!("bücher{n}.example.com") }))
            .await
            .expect(201);
    }
    let one_more = api.post(&path, json!({ "domain": "more.example.com" })).await;
    one_more.expect(409).shows("TOO_MANY_DOMAINS");
    api.call(
        &api.admin,
        Method::DELETE,
        &format!("/apps/{app}/environments/staging"),
        None,
    )
    .await
    .expect(204);
    let listed = api
        .get(&format!("{path}?sort_by=domain&sort_order=desc&page_size=1"))
        .await
        .json();
    assert_eq!(
        (&listed["total"], &listed["data"][0]["domain"]),
        (&json!(49), &json!("xn--bcher9-3ya.example.com"))
    );
    assert!(!routes(&api).await.contains(&"staging.example.com".to_owned()));
    api.stop().await;
}

/// What the proxies write about their orders is shown beside the name, from the first order to a renewal that fails.
#[tokio::test]
async fn a_domain_tells_how_far_its_certificate_is() {
    let (dns, site) = (DnsServer::start().await, Site::start().await);
    let api = api_asking(&dns, &site, "").await;
    let app = api.app("hello").await;
    let made = claim(&api, &app, "shop.example.com").await;
    let (name, value) = record(&made);
    dns.add_txt(&name, &value);
    verify(&api, &app, "shop.example.com").await.expect(200);
    let path = format!("/apps/{app}/custom-domains");
    let told = async |statement: &'static str| {
        sqlx::raw_sql(statement)
            .execute(&api.pool)
            .await
            .expect("it runs");
        let listed = api.get(&path).await.expect(200).json();
        let certificate = &listed["data"][0]["certificate"];
        let text = |field: &str| certificate[field].as_str().unwrap_or_default().to_owned();
        (text("state"), text("valid_until"), text("problem"))
    };
    let is = |state: &str, until: &str, problem: &str| (state.into(), until.into(), problem.into());
    assert_eq!(told("SELECT 1").await, is("none", "", ""));
    let ordered = "INSERT INTO acme_orders (name, revision) VALUES ('shop.example.com', 1)";
    assert_eq!(told(ordered).await, is("ordered", "", ""));
    let failed = "UPDATE acme_orders SET last_error = 'no answer', attempts = 1";
    assert_eq!(told(failed).await, is("failed", "", "no answer"));
    let until = "2100-01-01T00:00:00Z";
    let issued = "INSERT INTO certificates (name, id, chain, sealed_key, not_before, not_after)
                  VALUES ('shop.example.com', gen_random_uuid(), '', '', now(), '2100-01-01T00:00:00Z');
                  UPDATE acme_orders SET last_error = NULL";
    assert_eq!(told(issued).await, is("valid", until, ""));
    assert_eq!(told(failed).await, is("valid", until, "no answer"));
    // One that has ended is none.
    let ended = "UPDATE certificates SET not_after = now()";
    assert_eq!(told(ended).await, is("failed", "", "no answer"));
    api.stop().await;
}
