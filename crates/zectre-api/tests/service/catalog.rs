//! A catalog that is trusted: its JWKS over a real socket, keys made here.

use crate::{
    harness::{Answer, Harness},
    rows,
};
use axum::{Router, extract::State, routing::get};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{net::TcpListener, task::JoinSet};
use zectre_testkit::wait_until;

const ISSUER: &str = "https://catalog.test";
const AUDIENCE: &str = "cluster-1";
const SOON: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Shelf {
    jwks: Mutex<String>,
    reads: AtomicUsize,
}

async fn jwks(State(shelf): State<Arc<Shelf>>) -> String {
    shelf.reads.fetch_add(1, Ordering::Relaxed);
    shelf.jwks.lock().expect("no test panicked with it").clone()
}

/// A key pair with an id.
struct Key {
    id: &'static str,
    pair: KeyPair,
}

impl Key {
    fn new(id: &'static str) -> Self {
        let pair = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        Self { id, pair }
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header {
            typ: Some("at+jwt".into()),
            kid: Some(self.id.into()),
            ..Header::new(Algorithm::EdDSA)
        };
        let key = EncodingKey::from_ed_der(&self.pair.serialize_der());
        jsonwebtoken::encode(&header, claims, &key).expect("signed")
    }
}

/// The keys of a catalog that listens.
struct Keys {
    shelf: Arc<Shelf>,
    url: String,
    server: JoinSet<()>,
}

impl Keys {
    async fn start(keys: &[&Key]) -> Self {
        let shelf = Arc::new(Shelf::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/jwks.json", listener.local_addr().expect("bound"));
        let router = Router::new()
            .route("/jwks.json", get(jwks))
            .with_state(shelf.clone());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        let listed = Self { shelf, url, server };
        listed.list(keys);
        listed
    }

    fn list(&self, keys: &[&Key]) {
        let keys: Vec<Value> = keys
            .iter()
            .map(|key| {
                let x = URL_SAFE_NO_PAD.encode(key.pair.der_bytes());
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": key.id, "use": "sig", "alg": "EdDSA", "x": x })
            })
            .collect();
        *self.shelf.jwks.lock().expect("no test panicked with it") = json!({ "keys": keys }).to_string();
    }

    fn reads(&self) -> usize {
        self.shelf.reads.load(Ordering::Relaxed)
    }

    async fn api(&self) -> Harness {
        self.api_with("").await
    }

    async fn api_with(&self, config: &str) -> Harness {
        Harness::start_with(&format!(
            "auth.catalog_jwks_url = {:?}\nauth.jwt_expected_iss = {ISSUER:?}\nauth.jwt_expected_aud = {AUDIENCE:?}\n{config}",
            self.url
        ))
        .await
    }
}

fn now_secs() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("it is later").as_secs()
}

/// Claims of a person; each call's token is newer than the one of a smaller `age_secs`.
fn claims(subject: &str, age_secs: u64, orgs: &Value) -> Value {
    json!({
        "iss": ISSUER, "sub": subject, "aud": AUDIENCE, "exp": now_secs() + 600, "iat": now_secs() - age_secs,
        "jti": format!("{subject}-{age_secs}"), "email": format!("{subject}@example.org"), "email_verified": true,
        "name": "Ann", "orgs": orgs,
    })
}

fn org(slug: &str, role: &str) -> Value {
    json!({ "slug": slug, "name": slug, "role": role })
}

async fn user(api: &Harness, token: &str) -> Answer {
    api.send(api.request(Method::GET, "/user").bearer_auth(token))
        .await
}

/// Slugs and roles of who has the token.
async fn roles(api: &Harness, token: &str) -> Vec<(String, String)> {
    let person = user(api, token).await.expect(200).json();
    assert_eq!(person["is_admin"], false);
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let memberships = person["memberships"].as_array().expect("a list");
    memberships
        .iter()
        .map(|one| (text(&one["organization"]), text(&one["role"])))
        .collect()
}

fn pair(slug: &str, role: &str) -> (String, String) {
    (slug.to_owned(), role.to_owned())
}

#[tokio::test]
async fn a_first_login_makes_the_person_and_later_ones_follow_the_catalog() {
    let key = Key::new("a");
    let catalog = Keys::start(&[&key]).await;
    let api = catalog.api().await;
    let old = key.sign(&claims(
        "ann",
        50,
        &json!([org("acme", "developer"), org("default", "owner")]),
    ));
    // `default` is the cluster's own: a namesake in the catalog gives nothing there.
    assert_eq!(roles(&api, &old).await, [pair("acme", "developer")]);
    let app = api.request(Method::POST, "/apps").bearer_auth(&old);
    api.send(app.json(&json!({ "name": "shop", "namespace": "acme" })))
        .await
        .expect(201);
    let nodes = api.request(Method::GET, "/nodes").bearer_auth(&old);
    assert!(
        api.send(nodes).await.status.is_client_error(),
        "no admin of the cluster"
    );

    let id = user(&api, &old).await.id().parse().expect("an id");
    let local = rows::organization(&api.pool).await;
    rows::member(&api.pool, id, local.id, "admin").await;
    let local = pair(&local.slug, "admin");
    let sorted = |mut roles: Vec<(String, String)>| {
        roles.sort();
        roles
    };
    let newer = key.sign(&claims(
        "ann",
        40,
        &json!([org("acme", "viewer"), org(&local.0, "owner")]),
    ));
    let expected = sorted(vec![pair("acme", "viewer"), local.clone()]);
    assert_eq!(sorted(roles(&api, &newer).await), expected);
    assert_eq!(
        sorted(roles(&api, &old).await),
        expected,
        "an older token changes nothing"
    );
    let out = key.sign(&claims("ann", 30, &json!([])));
    assert_eq!(roles(&api, &out).await, std::slice::from_ref(&local));
    // A role that someone here gives is theirs.
    let path = format!("/orgs/acme/members/{id}");
    api.call(&api.admin, Method::PUT, &path, Some(json!({ "role": "owner" })))
        .await
        .expect(200);
    let back = key.sign(&claims("ann", 20, &json!([org("acme", "viewer")])));
    assert_eq!(
        sorted(roles(&api, &back).await),
        sorted(vec![pair("acme", "owner"), local])
    );

    let logout = api.request(Method::POST, "/auth/logout").bearer_auth(&back);
    api.send(logout).await.expect(204);
    assert_eq!(user(&api, &back).await.expect(401).code(), "UNAUTHENTICATED");
    user(&api, &out).await.expect(200);
    let disable = format!("/users/{id}/disable");
    api.act(&disable).await;
    let fresh = key.sign(&claims("ann", 10, &json!([org("acme", "owner")])));
    for token in [&out, &fresh] {
        assert_eq!(user(&api, token).await.expect(403).code(), "ACCOUNT_DISABLED");
    }
    api.stop().await;
}

#[tokio::test]
async fn an_api_key_has_a_catalog_s_roles_only_while_it_tells_of_them() {
    let key = Key::new("a");
    let catalog = Keys::start(&[&key]).await;
    let api = catalog.api().await;
    let token = key.sign(&claims("ann", 10, &json!([org("acme", "owner")])));
    let id: uuid::Uuid = user(&api, &token).await.expect(200).id().parse().expect("an id");
    let made = api.request(Method::POST, "/api-keys").bearer_auth(&token);
    let made = api
        .send(made.json(&json!({ "name": "ci" })))
        .await
        .expect(201)
        .json();
    let ci = made["key"].as_str().expect("shown once");
    let members = async || api.call(ci, Method::GET, "/orgs/acme/members", None).await;
    members().await.expect(200);
    // Nobody has signed in for longer than auth.catalog_roles_ttl_secs says: who knows what the catalog says now?
    sqlx::query("UPDATE users SET catalog_issued_at = catalog_issued_at - 2592001 WHERE id = $1")
        .bind(id)
        .execute(&api.pool)
        .await
        .expect("valid");
    members().await.expect(403).shows("CATALOG_ROLES_LAPSED");
    // What someone here gave stays, and is all that is left.
    let local = rows::organization(&api.pool).await;
    rows::member(&api.pool, id, local.id, "viewer").await;
    assert_eq!(members().await.expect(404).code(), "ORGANIZATION_NOT_FOUND");
    let path = format!("/orgs/{}/members", local.slug);
    api.call(ci, Method::GET, &path, None).await.expect(200);
    // The next login tells anew.
    let token = key.sign(&claims("ann", 0, &json!([org("acme", "owner")])));
    user(&api, &token).await.expect(200);
    members().await.expect(200);
    api.stop().await;
}

/// The catalog takes its owners back as it likes; where it made the organization, that is its business.
#[tokio::test]
async fn an_owner_by_the_catalog_does_not_stand_for_the_last_one_from_here() {
    let key = Key::new("a");
    let catalog = Keys::start(&[&key]).await;
    let api = catalog.api_with("auth.catalog_organizations = ['shop']").await;
    let (ann, ann_key) = rows::user(&api.pool, false).await;
    let shop = json!({ "slug": "shop" });
    api.call(&ann_key, Method::POST, "/orgs", Some(shop))
        .await
        .expect(201);
    let both = json!([org("acme", "owner"), org("shop", "owner")]);
    let bob = key.sign(&claims("bob", 50, &both));
    assert_eq!(
        roles(&api, &bob).await,
        [pair("acme", "owner"), pair("shop", "owner")]
    );
    let leave = async |slug: &str| {
        let path = format!("/orgs/{slug}/membership");
        api.call(&ann_key, Method::DELETE, &path, None).await
    };
    assert_eq!(leave("shop").await.expect(409).code(), "LAST_OWNER");
    // In what the catalog made its owner is one like any other.
    let path = format!("/orgs/acme/members/{ann}");
    api.call(&api.admin, Method::PUT, &path, Some(json!({ "role": "owner" })))
        .await
        .expect(200);
    leave("acme").await.expect(204);

    let out = key.sign(&claims("bob", 40, &json!([])));
    assert_eq!(roles(&api, &out).await, []);
    let members = api.call(&ann_key, Method::GET, "/orgs/shop/members", None).await;
    let members = members.expect(200).json();
    assert_eq!(
        (&members["total"], &members["data"][0]["role"]),
        (&json!(1), &json!("owner"))
    );
    api.stop().await;
}

/// A token that the person signs in anew for: one of the second in which their logins were ended is refused, like all before.
async fn signed_in_anew(api: &Harness, key: &Key, orgs: &Value) -> String {
    wait_until(SOON, "a new token is taken", || async {
        let token = key.sign(&claims("ann", 0, orgs));
        (user(api, &token).await.status == 200).then_some(token)
    })
    .await
}

#[tokio::test]
async fn tokens_from_before_an_account_was_disabled_or_got_a_password_stay_ended() {
    let key = Key::new("a");
    let catalog = Keys::start(&[&key]).await;
    let api = catalog.api().await;
    let nobody = json!([]);
    let old = key.sign(&claims("ann", 9, &nobody));
    let unseen = key.sign(&claims("ann", 5, &json!([org("acme", "owner")])));
    let id = user(&api, &old).await.expect(200).id();
    let account = format!("/users/{id}");
    api.act(&format!("{account}/disable")).await.expect(200);
    for token in [&old, &unseen] {
        assert_eq!(user(&api, token).await.expect(403).code(), "ACCOUNT_DISABLED");
    }
    api.act(&format!("{account}/enable")).await.expect(200);
    let ended = async |token: &str| {
        let answer = user(&api, token).await.expect(401);
        assert_eq!(answer.code(), "UNAUTHENTICATED");
        assert!(
            answer.text.contains("sign in at the catalog again"),
            "{}",
            answer.text
        );
    };
    ended(&old).await;
    ended(&unseen).await;
    let member: i64 = sqlx::query_scalar("SELECT count(*) FROM memberships WHERE user_id = $1::uuid")
        .bind(&id)
        .fetch_one(&api.pool)
        .await
        .expect("there");
    assert_eq!(member, 0, "nothing of a token that has ended is taken up");
    let anew = signed_in_anew(&api, &key, &nobody).await;

    let reset = api
        .act(&format!("{account}/reset-password"))
        .await
        .expect(201)
        .json();
    user(&api, &anew).await.expect(200);
    let set = json!({ "token": reset["token"], "new_password": "the first one" });
    api.send(api.request(Method::POST, "/auth/reset-password").json(&set))
        .await
        .expect(200);
    ended(&anew).await;
    let anew = signed_in_anew(&api, &key, &nobody).await;
    // Who changes their own goes on with the answer's login.
    let change = json!({ "current_password": "the first one", "new_password": "the second one" });
    let change = api
        .request(Method::POST, "/user/password")
        .bearer_auth(&anew)
        .json(&change);
    let login = api.send(change).await.expect(200).json();
    ended(&anew).await;
    user(&api, login["token"].as_str().expect("a token"))
        .await
        .expect(200);
    api.stop().await;
}

#[tokio::test]
async fn an_account_here_is_never_taken_over_and_a_bad_token_never_taken() {
    let (key, stranger) = (Key::new("a"), Key::new("a"));
    let catalog = Keys::start(&[&key]).await;
    let api = catalog.api().await;
    let admin = json!({ "email": "ADMIN@zectre.localhost" });
    let with = |change: &Value| {
        let mut all = claims("eve", 5, &json!([org("acme", "owner")]));
        for (name, value) in change.as_object().expect("an object") {
            all[name] = value.clone();
        }
        all
    };
    let taken = user(&api, &key.sign(&with(&admin))).await;
    taken.expect(403).shows("CATALOG_ACCOUNT_REFUSED");
    let unverified = json!({ "email_verified": false });
    let answer = user(&api, &key.sign(&with(&unverified))).await.expect(403);
    assert_eq!(answer.code(), "CATALOG_ACCOUNT_REFUSED");
    for change in [
        json!({ "aud": "cluster-2" }),
        json!({ "iss": "https://evil.test" }),
        json!({ "exp": now_secs() - 1 }),
        json!({ "iat": now_secs() + 600 }),
    ] {
        let answer = user(&api, &key.sign(&with(&change))).await.expect(401);
        assert_eq!(answer.code(), "UNAUTHENTICATED", "{change}");
    }
    user(&api, &stranger.sign(&with(&json!({})))).await.expect(401);
    let made: i64 = sqlx::query_scalar("SELECT count(*) FROM users WHERE external_issuer IS NOT NULL")
        .fetch_one(&api.pool)
        .await
        .expect("there");
    assert_eq!(made, 0);
    // Where only services and agents speak, a person's token is none of theirs.
    let good = key.sign(&with(&json!({})));
    user(&api, &good).await.expect(200);
    let deployment = api.deployment().await;
    let node = rows::node(&api.pool).await;
    let task = rows::task(&api.pool, deployment, Some(node), "running").await;
    let lines = api
        .request(Method::POST, &format!("/tasks/{task}/logs"))
        .bearer_auth(&good);
    let answer = api.send(lines.json(&json!({ "lines": [] }))).await;
    assert!(
        matches!(answer.status.as_u16(), 401 | 403 | 404),
        "{}",
        answer.text
    );
    let wake = api
        .request(Method::POST, &format!("/deployments/{deployment}/wake"))
        .bearer_auth(&good);
    api.send(wake).await.expect(404);
    api.stop().await;
}

#[tokio::test]
async fn keys_are_read_again_when_needed_and_outlive_the_catalog_s_absence() {
    let (first, second, third) = (Key::new("1"), Key::new("2"), Key::new("3"));
    let mut catalog = Keys::start(&[&first]).await;
    let mut api = catalog.api().await;
    let nobody = json!([]);
    let by = |key: &Key| key.sign(&claims("bob", 5, &nobody));
    user(&api, &by(&first)).await.expect(200);
    catalog.list(&[&second]);
    wait_until(SOON, "the new key is looked for", || async {
        (user(&api, &by(&second)).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(
        user(&api, &by(&first)).await.expect(401).code(),
        "UNAUTHENTICATED"
    );
    // However many tokens name unknown keys, the catalog is asked now and then.
    let (before, began) = (catalog.reads(), Instant::now());
    for _ in 0..20 {
        user(&api, &by(&third)).await.expect(401);
    }
    let most = 2 + began.elapsed().as_secs() / 5;
    assert!(
        (catalog.reads() - before) as u64 <= most,
        "{} reads",
        catalog.reads() - before
    );

    catalog.server.shutdown().await;
    api.stop_service().await;
    api.start_service().await;
    user(&api, &by(&second)).await.expect(200);
    let answer = user(&api, &by(&third)).await.expect(503);
    answer.shows("CATALOG_UNAVAILABLE");
    api.stop().await;
}
