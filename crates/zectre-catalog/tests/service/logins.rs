//! Both ways through: the command line's login, and that of a client with a registered redirect.

use crate::harness::{Begun, CLI, Catalog, LOOPBACK, claims, denied, form_body, param, person, tokens};
use serde_json::{Value, json};

#[tokio::test]
async fn the_command_line_signs_in_refreshes_and_signs_out() {
    let catalog = Catalog::start().await;
    // What nobody sees of a name at GitHub is left out of it.
    let mut ada = person("ada");
    ada["name"] = json!("\u{2800}ada\u{200b} the\u{202e} tester\u{fe0f}");
    catalog.visitor(&ada).await;
    let begun = Begun::new();
    let end = catalog.browse(&begun).await;
    assert!(end.as_str().starts_with(&format!("{LOOPBACK}?")), "{end}");
    assert_eq!(param(&end, "state").as_deref(), Some("client state"));
    assert_eq!(param(&end, "iss").as_deref(), Some(catalog.url.as_str()));
    let code = param(&end, "code").expect("a code");
    let first = tokens(catalog.exchange(&code, &begun.verifier).await);

    let me = catalog.done(&first.access, "GET", "/me", None, 200).await;
    assert_eq!(
        (&me["login"], &me["email"], &me["name"]),
        (
            &json!("ada"),
            &json!("ada@example.test"),
            &json!("ada the tester")
        )
    );
    let said = claims(&first.access);
    assert_eq!(
        (&said["sub"], &said["aud"], &said["iss"]),
        (&me["id"], &json!(catalog.url), &json!(catalog.url))
    );
    assert_eq!(
        (&said["email_verified"], &said["client_id"]),
        (&json!(true), &json!(CLI))
    );
    let life = said["exp"].as_u64().expect("a number") - said["iat"].as_u64().expect("a number");
    assert_eq!(life, catalog.config.tokens.access_ttl_secs);

    let second = tokens(catalog.refresh(&first.refresh, None).await);
    assert_ne!(second.refresh, first.refresh);
    assert_ne!(claims(&second.access)["jti"], said["jti"]);
    // Someone who signs in again is the same one, under whatever name.
    let mut renamed = person("ada");
    renamed["login"] = json!("lovelace");
    let again = catalog.sign_in(&renamed).await;
    let me_again = catalog.done(&again.access, "GET", "/me", None, 200).await;
    assert_eq!(
        (&me_again["id"], &me_again["login"]),
        (&me["id"], &json!("lovelace"))
    );

    let revoke = catalog
        .request(reqwest::Method::POST, "/oauth/revoke")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form_body(&[("token", &second.refresh)]));
    assert_eq!(revoke.send().await.expect("it answers").status(), 200);
    denied(catalog.refresh(&second.refresh, None).await, "invalid_grant");
    catalog
        .refused(&second.access, "GET /me", None, "401 UNAUTHENTICATED")
        .await;
    catalog.done(&again.access, "GET", "/me", None, 200).await;
}

#[tokio::test]
async fn tokens_for_a_cluster_speak_of_the_organization_that_has_it() {
    let catalog = Catalog::start().await;
    let ada = catalog.sign_in(&person("ada")).await;
    for slug in ["acme", "hobby"] {
        catalog
            .done(
                &ada.access,
                "POST",
                "/orgs",
                Some(json!({"slug": slug, "name": slug.to_uppercase()})),
                201,
            )
            .await;
    }
    let cluster = json!({"organization": "acme", "name": "eu", "api_base_url": "https://eu.acme.test/", "audience": "acme-eu-1"});
    let cluster = catalog
        .done(&ada.access, "POST", "/clusters", Some(cluster), 201)
        .await;
    assert_eq!(cluster["api_base_url"], "https://eu.acme.test");

    // By login, and by refreshing.
    catalog.visitor(&person("ada")).await;
    let begun = Begun::new().with("audience", Some("acme-eu-1"));
    let code = param(&catalog.browse(&begun).await, "code").expect("a code");
    let by_login = tokens(catalog.exchange(&code, &begun.verifier).await);
    let by_refresh = tokens(catalog.refresh(&ada.refresh, Some("acme-eu-1")).await);
    for token in [&by_login.access, &by_refresh.access] {
        let said = claims(token);
        assert_eq!(said["aud"], "acme-eu-1");
        assert_eq!(
            said["orgs"],
            json!([{"slug": "acme", "name": "ACME", "role": "owner"}])
        );
        // It is for the cluster, not for the catalog.
        catalog
            .refused(token, "GET /me", None, "401 UNAUTHENTICATED")
            .await;
    }

    // A stranger gets none, however they ask, and keeps the sign-in.
    catalog.visitor(&person("eve")).await;
    let end = catalog
        .browse(&Begun::new().with("audience", Some("acme-eu-1")))
        .await;
    assert_eq!(
        (param(&end, "error").as_deref(), param(&end, "code")),
        (Some("access_denied"), None)
    );
    let eve = catalog.sign_in(&person("eve")).await;
    denied(
        catalog.refresh(&eve.refresh, Some("acme-eu-1")).await,
        "invalid_target",
    );
    tokens(catalog.refresh(&eve.refresh, None).await);
}

#[tokio::test]
async fn a_sign_in_gives_tokens_for_what_it_was_begun_for() {
    let catalog = Catalog::start().await;
    let ada = catalog.sign_in(&person("ada")).await;
    for (slug, audience) in [("acme", "acme-eu-1"), ("hobby", "hobby-us-1")] {
        let org = json!({ "slug": slug });
        catalog.done(&ada.access, "POST", "/orgs", Some(org), 201).await;
        let cluster = json!({"organization": slug, "name": "eu", "api_base_url": "https://eu.test", "audience": audience});
        catalog
            .done(&ada.access, "POST", "/clusters", Some(cluster), 201)
            .await;
    }
    // For a cluster: for that one, and for nobody else, not even the catalog.
    let begun = Begun::new().with("audience", Some("acme-eu-1"));
    let code = param(&catalog.browse(&begun).await, "code").expect("a code");
    let by_login = tokens(catalog.exchange(&code, &begun.verifier).await);
    for other in ["hobby-us-1", catalog.url.as_str()] {
        denied(
            catalog.refresh(&by_login.refresh, Some(other)).await,
            "invalid_target",
        );
    }
    let next = tokens(catalog.refresh(&by_login.refresh, None).await);
    assert_eq!(claims(&next.access)["aud"], "acme-eu-1");
    // A program with a page of its own gets what it was signed in to: nobody was asked whether it may have more.
    let redirect = "https://dashboard.test/callback?tenant=1";
    let begun = Begun::new()
        .with("client_id", Some("dashboard"))
        .with("redirect_uri", Some(redirect));
    let code = param(&catalog.browse(&begun).await, "code").expect("a code");
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", "dashboard"),
        ("redirect_uri", redirect),
        ("code", &code),
        ("code_verifier", &begun.verifier),
        ("audience", "acme-eu-1"),
    ];
    denied(catalog.token(&form).await, "invalid_target");
}

#[tokio::test]
async fn a_registered_client_gets_its_code_where_it_is_registered() {
    let catalog = Catalog::start().await;
    catalog.visitor(&person("ada")).await;
    let redirect = "https://dashboard.test/callback?tenant=1";
    let begun = Begun::new()
        .with("client_id", Some("dashboard"))
        .with("redirect_uri", Some(redirect))
        .with("state", None);
    let end = catalog.browse(&begun).await;
    assert!(end.as_str().starts_with(&format!("{redirect}&code=")), "{end}");
    let form = |client: &'static str, code: &str| -> Vec<(&'static str, String)> {
        vec![
            ("grant_type", "authorization_code".into()),
            ("client_id", client.into()),
            ("redirect_uri", redirect.into()),
            ("code", code.into()),
            ("code_verifier", begun.verifier.clone()),
        ]
    };
    let exchange = async |form: Vec<(&'static str, String)>| {
        let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
        catalog.token(&form).await
    };
    let code = param(&end, "code").expect("a code");
    let got = tokens(exchange(form("dashboard", &code)).await);
    // Its refresh token is for itself only, and another client's try leaves it as it is.
    denied(catalog.refresh(&got.refresh, None).await, "invalid_grant");
    let again = catalog
        .token(&[
            ("grant_type", "refresh_token"),
            ("client_id", "dashboard"),
            ("refresh_token", &got.refresh),
        ])
        .await;
    tokens(again);
}

#[tokio::test]
async fn only_verified_primary_addresses_are_taken() {
    let catalog = Catalog::start().await;
    let mut eve = person("eve");
    eve["emails"] = json!([
        {"email": "ada@example.test", "primary": true, "verified": false},
        {"email": "eve@example.test", "primary": false, "verified": true},
    ]);
    catalog.visitor(&eve).await;
    let (callback, cookie) = catalog.at_github(&Begun::new()).await;
    let answer = catalog.callback(callback, Some(&cookie)).await;
    assert_eq!(answer.status(), 403);
    let problem: Value = answer.json().await.expect("a problem");
    assert_eq!(problem["code"], "NO_VERIFIED_EMAIL");
    // Who says no at GitHub is sent back with that.
    catalog.visitor(&Value::Null).await;
    let end = catalog.browse(&Begun::new()).await;
    assert_eq!(param(&end, "error").as_deref(), Some("access_denied"));
    assert_eq!(param(&end, "state").as_deref(), Some("client state"));
}
