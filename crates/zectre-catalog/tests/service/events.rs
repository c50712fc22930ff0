//! What was done is written down: who, what, to whom, from where; and stays.

use crate::harness::{CLI, Catalog, person};
use reqwest::{Method, header};
use serde_json::{Value, json};

/// Action, actor and subject of each, the newest first.
async fn told(catalog: &Catalog, token: &str, path: &str) -> Vec<(String, String, String)> {
    let page = catalog.done(token, "GET", path, None, 200).await;
    let text = |event: &Value, name: &str| event[name].as_str().expect("text").to_owned();
    let events = page["data"].as_array().expect("a list");
    assert_eq!(page["total"], events.len());
    let told = events.iter().map(|event| {
        assert!(
            !text(event, "message").is_empty() && event["request_id"].is_string(),
            "{event}"
        );
        (
            text(event, "action"),
            text(event, "actor"),
            text(event, "subject"),
        )
    });
    told.collect()
}

fn happened(rows: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
    let owned = |(action, actor, subject): &(&str, &str, &str)| {
        ((*action).to_owned(), (*actor).to_owned(), (*subject).to_owned())
    };
    rows.iter().map(owned).collect()
}

async fn a_cluster_comes_moves_and_goes(catalog: &Catalog, token: &str) {
    let cluster = json!({"organization": "acme", "name": "eu", "api_base_url": "https://eu.acme.test"});
    let cluster = catalog.done(token, "POST", "/clusters", Some(cluster), 201).await;
    let cluster = format!("/clusters/{}", cluster["id"].as_str().expect("an id"));
    let moved = json!({"name": "eu", "api_base_url": "https://eu2.acme.test"});
    catalog.done(token, "PUT", &cluster, Some(moved), 200).await;
    catalog.done(token, "DELETE", &cluster, None, 204).await;
}

#[tokio::test]
async fn what_was_done_in_an_organization_is_told_to_its_admins() {
    let catalog = Catalog::start().await;
    let ada = catalog.sign_in(&person("ada")).await.access;
    let bob = catalog.sign_in(&person("bob")).await.access;
    let done = async |token: &str, method: &str, path: &str, body: Value, status| {
        let body = (!body.is_null()).then_some(body);
        catalog.done(token, method, path, body, status).await
    };
    done(&ada, "POST", "/orgs", json!({"slug": "acme"}), 201).await;
    let invite = json!({"email": "bob@example.test", "role": "viewer"});
    let spare = done(&ada, "POST", "/orgs/acme/invitations", invite.clone(), 201).await;
    let spare = format!("/orgs/acme/invitations/{}", spare["id"].as_str().expect("an id"));
    done(&ada, "DELETE", &spare, Value::Null, 204).await;
    let invited = done(&ada, "POST", "/orgs/acme/invitations", invite, 201).await;
    let token = invited["token"].as_str().expect("shown once").to_owned();
    done(
        &bob,
        "POST",
        "/invitations/accept",
        json!({ "token": token }),
        200,
    )
    .await;
    catalog
        .refused(&bob, "GET /orgs/acme/events", None, "403 FORBIDDEN")
        .await;
    let me = done(&bob, "GET", "/me", Value::Null, 200).await;
    let member = format!("/orgs/acme/members/{}", me["id"].as_str().expect("an id"));
    done(&ada, "PUT", &member, json!({"role": "developer"}), 204).await;
    a_cluster_comes_moves_and_goes(&catalog, &ada).await;
    done(&bob, "DELETE", &member, Value::Null, 204).await;
    let expected = happened(&[
        ("member.removed", "bob", "bob"),
        ("cluster.removed", "ada", "eu"),
        ("cluster.changed", "ada", "eu"),
        ("cluster.added", "ada", "eu"),
        ("member.role_changed", "ada", "bob"),
        ("invitation.accepted", "bob", "bob"),
        ("invitation.created", "ada", "bob@example.test"),
        ("invitation.withdrawn", "ada", "bob@example.test"),
        ("invitation.created", "ada", "bob@example.test"),
        ("organization.created", "ada", "acme"),
    ]);
    assert_eq!(told(&catalog, &ada, "/orgs/acme/events").await, expected);
    let page = done(
        &ada,
        "GET",
        "/orgs/acme/events?page=2&page_size=3",
        Value::Null,
        200,
    )
    .await;
    assert_eq!(
        (&page["total"], &page["data"][0]["action"]),
        (&json!(10), &json!("cluster.added"))
    );
    assert_eq!(page["data"][0]["source_address"], "127.0.0.1");
    let all: Vec<String> = sqlx::query_scalar("SELECT row_to_json(e)::text FROM events e")
        .fetch_all(&catalog.pool)
        .await
        .expect("rows");
    assert!(all.iter().all(|row| !row.contains(&token)), "no secret is in one");
    // What was done to oneself is told, but not where others were.
    let mine = done(&bob, "GET", "/me/events?page_size=100", Value::Null, 200).await;
    let mine = mine["data"].as_array().expect("a list").clone();
    let of = |action: &str| mine.iter().find(|event| event["action"] == action).expect("told");
    assert!(of("member.role_changed")["source_address"].is_null());
    assert_eq!(of("member.removed")["source_address"], "127.0.0.1");
}

#[tokio::test]
async fn sign_ins_are_told_and_what_github_led_to() {
    let catalog = Catalog::start().await;
    let mut ada = person("ada");
    ada["administers"] = json!([77]);
    let first = catalog.sign_in(&ada).await;
    let owner = first.access.clone();
    catalog
        .done(&owner, "POST", "/orgs", Some(json!({"slug": "acme"})), 201)
        .await;
    let viewer = Some(json!({"role": "viewer"}));
    catalog
        .done(&owner, "PUT", "/orgs/acme/github/77", viewer, 204)
        .await;
    let mut bob = person("bob");
    bob["orgs"] = json!([77]);
    // Twice: nothing changes by the second, and so nothing is told.
    for _ in 0..2 {
        catalog.sign_in(&bob).await;
    }
    let admin = Some(json!({"role": "admin"}));
    catalog
        .done(&owner, "PUT", "/orgs/acme/github/77", admin, 204)
        .await;
    catalog
        .done(&owner, "DELETE", "/orgs/acme/github/77", None, 204)
        .await;
    let expected = happened(&[
        ("member.removed", "ada", "bob"),
        ("github_mapping.removed", "ada", "77"),
        ("member.role_changed", "ada", "bob"),
        ("github_mapping.set", "ada", "77"),
        ("member.added", "bob", "bob"),
        ("github_mapping.set", "ada", "77"),
        ("organization.created", "ada", "acme"),
    ]);
    assert_eq!(told(&catalog, &owner, "/orgs/acme/events").await, expected);
    let revoke = catalog
        .request(Method::POST, "/oauth/revoke")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(format!("token={}", first.refresh));
    assert_eq!(revoke.send().await.expect("it answers").status(), 200);
    let again = catalog.sign_in(&ada).await.access;
    let mine = told(&catalog, &again, "/me/events?page_size=100").await;
    let count = |action: &str| mine.iter().filter(|one| one.0 == action).count();
    assert_eq!(
        (
            count("user.signed_in"),
            count("session.begun"),
            count("session.ended")
        ),
        (2, 2, 1)
    );
    let client = catalog.done(&again, "GET", "/me/events", None, 200).await;
    let newest = client["data"][0]["message"].as_str().expect("a sentence");
    assert!(newest.contains(CLI), "{newest}");
}

#[tokio::test]
async fn a_refresh_token_that_comes_twice_is_told_as_the_catalogs_doing() {
    let catalog = Catalog::start().await;
    let old = catalog.sign_in(&person("ada")).await;
    assert_eq!(catalog.refresh(&old.refresh, None).await.0, 200);
    assert_eq!(catalog.refresh(&old.refresh, None).await.0, 400);
    let again = catalog.sign_in(&person("ada")).await.access;
    let mine = told(&catalog, &again, "/me/events").await;
    let ended: Vec<_> = mine.iter().filter(|one| one.0 == "session.ended").collect();
    assert_eq!(ended.len(), 1);
    assert_eq!(
        (ended[0].1.as_str(), ended[0].2.as_str()),
        ("zectre-catalog", "ada")
    );
}

#[tokio::test]
async fn an_invitation_that_nobody_accepts_in_time_is_told() {
    let catalog = Catalog::start().await;
    let ada = catalog.sign_in(&person("ada")).await.access;
    let acme = Some(json!({"slug": "acme"}));
    catalog.done(&ada, "POST", "/orgs", acme, 201).await;
    for email in ["bob@example.test", "eve@example.test"] {
        let invite = Some(json!({"email": email, "role": "viewer"}));
        catalog
            .done(&ada, "POST", "/orgs/acme/invitations", invite, 201)
            .await;
    }
    sqlx::query("UPDATE invitations SET expires_at = now() - interval '1 second' WHERE email LIKE 'bob@%'")
        .execute(&catalog.pool)
        .await
        .expect("aged");
    // The running catalog purges, too: the event is there once, whoever wrote it.
    for _ in 0..2 {
        zectre_catalog::purge::round(&catalog.pool).await.expect("purged");
    }
    let page = catalog.done(&ada, "GET", "/orgs/acme/events", None, 200).await;
    let ended: Vec<&Value> = page["data"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|event| event["action"] == "invitation.expired")
        .collect();
    let [ended] = ended[..] else { panic!("{page}") };
    assert_eq!(
        (&ended["actor"], &ended["subject"], &ended["source_address"]),
        (&json!("zectre-catalog"), &json!("bob@example.test"), &Value::Null)
    );
    let open = catalog
        .done(&ada, "GET", "/orgs/acme/invitations", None, 200)
        .await;
    assert_eq!(open["total"], 1);
}

#[tokio::test]
async fn what_is_written_stays_for_ninety_days() {
    let catalog = Catalog::start().await;
    let run = async |statement: &'static str| sqlx::query(statement).execute(&catalog.pool).await;
    let many = "INSERT INTO events (id, time, actor, action, subject, message)
                SELECT gen_random_uuid(), now() - n * interval '1 day', 'x', 'x', '', '' FROM generate_series(83, 92) AS n";
    run(many).await.expect("written");
    // The running catalog purges, too: what is past its time may be gone already.
    for refused in [
        "UPDATE events SET actor = 'y'",
        "DELETE FROM events WHERE time > now() - interval '90 days'",
        "TRUNCATE events",
    ] {
        let error = run(refused).await.expect_err(refused);
        assert!(error.to_string().contains("events are"), "{error}");
    }
    zectre_catalog::purge::round(&catalog.pool).await.expect("purged");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM events")
        .fetch_one(&catalog.pool)
        .await
        .expect("a number");
    assert_eq!(left, 7);
}
