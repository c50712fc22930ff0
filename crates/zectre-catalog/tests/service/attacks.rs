//! What must not work.

use crate::harness::{
    Begun, CLI, Catalog, LOOPBACK, asked, claims, cookie, denied, location, param, person, tokens,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use zectre_service::key::to_hex;

#[tokio::test]
async fn a_code_is_for_who_began_the_login_and_once() {
    let catalog = Catalog::start().await;
    let ada = person("ada");
    // A wrong verifier spends the code.
    let (code, verifier) = catalog.code(&ada).await;
    denied(catalog.exchange(&code, &"x".repeat(43)).await, "invalid_grant");
    denied(catalog.exchange(&code, &verifier).await, "invalid_grant");
    // Whatever is wrong with an exchange, or missing, there is no second one: the challenge is no verifier, nor is another client
    // or redirect taken, nor an audience that is none of the person's.
    let good = [
        ("client_id", CLI),
        ("redirect_uri", LOOPBACK),
        ("code_verifier", ""),
        ("audience", ""),
    ];
    for (name, value, error) in [
        ("code_verifier", "challenge", "invalid_grant"),
        ("code_verifier", "", "invalid_request"),
        ("redirect_uri", "", "invalid_request"),
        ("client_id", "", "invalid_request"),
        ("client_id", "dashboard", "invalid_grant"),
        ("redirect_uri", "http://127.0.0.1:34568/callback", "invalid_grant"),
        ("audience", "of-a-stranger", "invalid_target"),
    ] {
        let (code, verifier) = catalog.code(&ada).await;
        let challenge = zectre_catalog::core::pkce::challenge(&verifier);
        let mut form = vec![("grant_type", "authorization_code"), ("code", code.as_str())];
        form.extend(good.map(|(known, good)| match (known == name, known, value) {
            (true, _, "challenge") => (known, challenge.as_str()),
            (true, ..) => (known, value),
            (false, "code_verifier", _) => (known, verifier.as_str()),
            (false, ..) => (known, good),
        }));
        denied(catalog.token(&form).await, error);
        denied(catalog.exchange(&code, &verifier).await, "invalid_grant");
    }
    // Used twice, it ends what came of it.
    let (code, verifier) = catalog.code(&ada).await;
    let got = tokens(catalog.exchange(&code, &verifier).await);
    denied(catalog.exchange(&code, &verifier).await, "invalid_grant");
    denied(catalog.refresh(&got.refresh, None).await, "invalid_grant");
    catalog
        .refused(&got.access, "GET /me", None, "401 UNAUTHENTICATED")
        .await;
    // Not after its minute.
    let (code, verifier) = catalog.code(&ada).await;
    sqlx::query(
        "UPDATE authorization_codes SET expires_at = now() - interval '1 second' WHERE used_at IS NULL",
    )
    .execute(&catalog.pool)
    .await
    .expect("aged");
    denied(catalog.exchange(&code, &verifier).await, "invalid_grant");
}

#[tokio::test]
async fn of_many_at_once_with_one_code_at_most_one_has_anything() {
    let catalog = Catalog::start().await;
    let (code, verifier) = catalog.code(&person("ada")).await;
    let (a, b, c, d) = tokio::join!(
        catalog.exchange(&code, &verifier),
        catalog.exchange(&code, &verifier),
        catalog.exchange(&code, &verifier),
        catalog.exchange(&code, &verifier),
    );
    let won: Vec<_> = [a, b, c, d]
        .into_iter()
        .filter(|(status, _)| status.is_success())
        .collect();
    assert_eq!(won.len(), 1);
    // The others have ended it.
    denied(
        catalog.refresh(&tokens(won[0].clone()).refresh, None).await,
        "invalid_grant",
    );
}

#[tokio::test]
async fn a_refresh_token_that_was_used_ends_its_sign_in() {
    let catalog = Catalog::start().await;
    let first = catalog.sign_in(&person("ada")).await;
    let other = catalog.sign_in(&person("ada")).await;
    let second = tokens(catalog.refresh(&first.refresh, None).await);
    denied(catalog.refresh(&first.refresh, None).await, "invalid_grant");
    denied(catalog.refresh(&second.refresh, None).await, "invalid_grant");
    catalog
        .refused(&second.access, "GET /me", None, "401 UNAUTHENTICATED")
        .await;
    // Other sign-ins are others'.
    let other = tokens(catalog.refresh(&other.refresh, None).await);
    // One with the right family and a made-up secret is a used one as far as anyone can tell.
    let mut bytes = URL_SAFE_NO_PAD.decode(&other.refresh[4..]).expect("base64");
    bytes[47] ^= 1;
    denied(
        catalog
            .refresh(&format!("zcr_{}", URL_SAFE_NO_PAD.encode(bytes)), None)
            .await,
        "invalid_grant",
    );
    denied(catalog.refresh(&other.refresh, None).await, "invalid_grant");
    // Nor after its end.
    let late = catalog.sign_in(&person("ada")).await;
    sqlx::query("UPDATE sessions SET expires_at = now()")
        .execute(&catalog.pool)
        .await
        .expect("aged");
    denied(catalog.refresh(&late.refresh, None).await, "invalid_grant");
    for nonsense in ["", "zcr_", "zcr_AAAA", "zcc_x", "\0"] {
        let (status, answer) = catalog.refresh(nonsense, None).await;
        assert_eq!(status, 400, "{nonsense:?}: {answer}");
    }
}

#[tokio::test]
async fn nothing_is_sent_to_a_redirect_that_is_not_the_clients() {
    let catalog = Catalog::start().await;
    for (client, redirect) in [
        (CLI, "https://evil.test/callback"),
        (CLI, "http://127.0.0.1:1@evil.test/callback"),
        (CLI, "http://127.0.0.1:80/other"),
        (CLI, "http://localhost:80/callback"),
        ("dashboard", "https://dashboard.test/callback"),
        ("dashboard", "https://dashboard.test/callback?tenant=1&x=y"),
        ("dashboard", LOOPBACK),
        ("nobody", LOOPBACK),
    ] {
        let begun = Begun::new()
            .with("client_id", Some(client))
            .with("redirect_uri", Some(redirect));
        let answer = catalog.begin(&begun).await;
        assert_eq!(answer.status(), 400, "{client} {redirect}");
        assert!(cookie(&answer).is_none());
        let problem: Value = answer.json().await.expect("a problem");
        assert_eq!(problem["code"], "UNKNOWN_CLIENT", "{client} {redirect}");
    }
    // Wrong in itself, it goes back to the client without a visit to GitHub.
    for (name, value, error) in [
        ("code_challenge_method", Some("plain"), "invalid_request"),
        ("code_challenge_method", None, "invalid_request"),
        ("code_challenge", None, "invalid_request"),
        ("code_challenge", Some("short"), "invalid_request"),
        ("response_type", Some("token"), "unsupported_response_type"),
        ("audience", Some("a b c d e f"), "invalid_request"),
    ] {
        let answer = catalog.begin(&Begun::new().with(name, value)).await;
        let end = location(&answer);
        assert!(end.as_str().starts_with(LOOPBACK), "{name}: {end}");
        assert_eq!(param(&end, "error").as_deref(), Some(error), "{name}");
    }
    // What is given twice could be read in two ways.
    let mut twice = Begun::new();
    twice.query.push(("redirect_uri", "https://evil.test/".into()));
    assert_eq!(catalog.begin(&twice).await.status(), 400);
}

#[tokio::test]
async fn a_login_is_finished_in_the_browser_that_began_it() {
    let catalog = Catalog::start().await;
    catalog.visitor(&person("eve")).await;
    let (evil, evil_cookie) = catalog.at_github(&Begun::new()).await;
    let (_, own_cookie) = catalog.at_github(&Begun::new()).await;
    let expired = async |url: reqwest::Url, cookie: Option<&str>| {
        let answer = catalog.callback(url, cookie).await;
        assert_eq!(answer.status(), 400);
        let problem: Value = answer.json().await.expect("a problem");
        assert_eq!(problem["code"], "LOGIN_EXPIRED");
    };
    // Without the cookie, with another login's, with a changed one, with another state.
    expired(evil.clone(), None).await;
    expired(evil.clone(), Some(&own_cookie)).await;
    let mut changed = evil_cookie.clone();
    changed.pop();
    expired(evil.clone(), Some(&changed)).await;
    let mut other_state = evil.clone();
    other_state
        .query_pairs_mut()
        .clear()
        .append_pair("code", "x")
        .append_pair("state", "y");
    expired(other_state, Some(&evil_cookie)).await;
    // The right one works, once: GitHub's code is spent.
    let first = catalog.callback(evil.clone(), Some(&evil_cookie)).await;
    assert_eq!(first.status(), 200);
    expired(evil, Some(&evil_cookie)).await;
    // A page for people holds no markup of others.
    let page = catalog.request(
        reqwest::Method::GET,
        "/oauth/authorize?client_id=<b>&redirect_uri=<b>",
    );
    let page = page
        .header("accept", "text/html")
        .send()
        .await
        .expect("it answers")
        .text()
        .await
        .expect("text");
    assert!(page.contains("UNKNOWN_CLIENT") && !page.contains("<b>"), "{page}");
}

#[tokio::test]
async fn no_page_gives_a_persons_word_for_them() {
    let catalog = Catalog::start().await;
    catalog.visitor(&person("ada")).await;
    let ask = async || {
        let (callback, login) = catalog.at_github(&Begun::new()).await;
        let asked = asked(catalog.callback(callback, Some(&login)).await).await;
        (login, asked.0, asked.1)
    };
    let (login, cookie, nonce) = ask().await;
    let (_, other_cookie, other_nonce) = ask().await;
    // Without the cookie, with the wrong one, with one that waits for something else, with a guess.
    let sealed = login.split_once('=').expect("a pair").1;
    let moved = format!("zectre-consent={sealed}");
    for (cookie, nonce) in [
        (None, nonce.as_str()),
        (Some(other_cookie.as_str()), nonce.as_str()),
        (Some(cookie.as_str()), other_nonce.as_str()),
        (Some(login.as_str()), nonce.as_str()),
        (Some(moved.as_str()), nonce.as_str()),
        (Some(cookie.as_str()), ""),
    ] {
        let answer = catalog.consent(cookie, nonce, "allow").await;
        assert_eq!(answer.status(), 400);
        let problem: Value = answer.json().await.expect("a problem");
        assert_eq!(problem["code"], "LOGIN_EXPIRED");
    }
    // Anything but yes is no; and whatever was said, it was said once.
    for (decision, is_yes) in [("deny", false), ("", false), ("allow", true)] {
        let (_, cookie, nonce) = ask().await;
        let end = location(&catalog.consent(Some(&cookie), &nonce, decision).await);
        let denied = (!is_yes).then_some("access_denied");
        assert_eq!(param(&end, "error").as_deref(), denied);
        assert_eq!(param(&end, "code").is_some(), is_yes);
        let again = catalog.consent(Some(&cookie), &nonce, "allow").await;
        assert_eq!(again.status(), 400);
        let problem: Value = again.json().await.expect("a problem");
        assert_eq!(problem["code"], "LOGIN_EXPIRED");
    }
}

/// A token with this header and these claims, signed by `sign`.
fn forge(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let signature = URL_SAFE_NO_PAD.encode(sign(text.as_bytes()));
    format!("{text}.{signature}")
}

#[tokio::test]
async fn only_the_catalogs_own_tokens_of_the_right_kind_are_taken() {
    let catalog = Catalog::start_with("[tokens]\nalgorithm = 'RS256'\n").await;
    let ada = catalog.sign_in(&person("ada")).await;
    catalog.done(&ada.access, "GET", "/me", None, 200).await;
    let said = claims(&ada.access);
    let jwks: Value = catalog
        .get("/.well-known/jwks.json")
        .await
        .json()
        .await
        .expect("JSON");
    let (kid, modulus) = (
        &jwks["keys"][0]["kid"],
        jwks["keys"][0]["n"].as_str().expect("text"),
    );

    // Signed with what is public, as HS256; unsigned; with a kid that isn't ours.
    let public = URL_SAFE_NO_PAD.decode(modulus).expect("base64");
    let hmac = |secret: &[u8], kid: &Value| {
        let header = Header {
            kid: kid.as_str().map(str::to_owned),
            typ: Some("at+jwt".into()),
            ..Header::new(Algorithm::HS256)
        };
        jsonwebtoken::encode(&header, &said, &EncodingKey::from_secret(secret)).expect("signed")
    };
    let none = forge(
        &json!({"alg": "none", "typ": "at+jwt", "kid": kid}),
        &said,
        |_| Vec::new(),
    );
    let unknown = hmac(b"secret", &json!("unknown"));
    let mut forged = vec![hmac(&public, kid), hmac(modulus.as_bytes(), kid), none, unknown];
    // Its own, tampered with.
    let parts: Vec<&str> = ada.access.split('.').collect();
    let mut admin = said.clone();
    admin["sub"] = json!("0198f2c4-7c3e-7a51-9d0e-3f6f2f4f8a11");
    forged.push(format!(
        "{}.{}.{}",
        parts[0],
        URL_SAFE_NO_PAD.encode(admin.to_string()),
        parts[2]
    ));
    forged.push(format!("{}.{}.", parts[0], parts[1]));
    forged.push(String::new());
    for token in &forged {
        catalog
            .refused(token, "GET /me", None, "401 UNAUTHENTICATED")
            .await;
    }
}

#[tokio::test]
async fn what_is_stored_is_worth_nothing_to_a_thief_and_goes_when_it_has_ended() {
    let catalog = Catalog::start().await;
    let (unused, _) = catalog.code(&person("ada")).await;
    let ada = catalog.sign_in(&person("ada")).await;
    catalog
        .done(&ada.access, "POST", "/orgs", Some(json!({"slug": "acme"})), 201)
        .await;
    let invited = json!({"email": "bob@example.test"});
    let invitation = catalog
        .done(&ada.access, "POST", "/orgs/acme/invitations", Some(invited), 201)
        .await;
    let mut stored = String::new();
    for table in [
        "signing_keys",
        "users",
        "authorization_codes",
        "sessions",
        "invitations",
        "spent_consents",
    ] {
        let statement = sqlx::AssertSqlSafe(format!(
            "SELECT coalesce(string_agg(t::text, ' '), '') FROM {table} t"
        ));
        let rows: String = sqlx::query_scalar(statement)
            .fetch_one(&catalog.pool)
            .await
            .expect("read");
        assert!(!rows.is_empty(), "{table}");
        stored.push_str(&rows);
    }
    let token = invitation["token"].as_str().expect("a token");
    for secret in [unused.as_str(), &ada.refresh, &ada.access, token] {
        let hex = to_hex(secret.as_bytes());
        let raw = URL_SAFE_NO_PAD.decode(&secret[4..]).unwrap_or_default();
        let raw_hex = to_hex(&raw);
        assert!(!stored.contains(secret) && !stored.contains(&hex));
        assert!(raw_hex.is_empty() || !stored.contains(&raw_hex));
    }
    assert!(!stored.contains("gho_"));

    sqlx::query("UPDATE authorization_codes SET expires_at = now() - interval '2 days'")
        .execute(&catalog.pool)
        .await
        .expect("aged");
    for table in ["sessions", "invitations", "spent_consents"] {
        let statement = sqlx::AssertSqlSafe(format!(
            "UPDATE {table} SET expires_at = now() - interval '1 second'"
        ));
        sqlx::query(statement).execute(&catalog.pool).await.expect("aged");
    }
    let accept = Some(json!({"token": token}));
    let bob = catalog.sign_in(&person("bob")).await;
    catalog
        .refused(
            &bob.access,
            "POST /invitations/accept",
            accept,
            "404 INVITATION_NOT_FOUND",
        )
        .await;
    assert_eq!(
        zectre_catalog::purge::round(&catalog.pool).await.expect("purged"),
        6
    );
    catalog.done(&bob.access, "GET", "/me", None, 200).await;
}
