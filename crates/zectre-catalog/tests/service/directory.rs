//! Organizations, their members and their clusters.

use crate::harness::{Catalog, person};
use serde_json::{Value, json};
use std::time::Duration;
use zectre_testkit::wait_until;

/// For what comes at once on an idle machine.
const SOON: Duration = Duration::from_secs(60);

async fn org(catalog: &Catalog, token: &str, slug: &str) {
    catalog
        .done(token, "POST", "/orgs", Some(json!({"slug": slug})), 201)
        .await;
}

async fn id(catalog: &Catalog, token: &str) -> String {
    let me = catalog.done(token, "GET", "/me", None, 200).await;
    me["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn an_invitation_is_for_one_person_once() {
    let catalog = Catalog::start().await;
    let (ada, bob, eve) = (
        catalog.sign_in(&person("ada")).await.access,
        catalog.sign_in(&person("bob")).await.access,
        catalog.sign_in(&person("eve")).await.access,
    );
    org(&catalog, &ada, "acme").await;
    let invite = json!({"email": "Bob@Example.test", "role": "admin"});
    let invited = catalog
        .done(&ada, "POST", "/orgs/acme/invitations", Some(invite), 201)
        .await;
    let accept = json!({"token": invited["token"]});
    catalog
        .refused(
            &eve,
            "POST /invitations/accept",
            Some(accept.clone()),
            "404 INVITATION_NOT_FOUND",
        )
        .await;
    let joined = catalog
        .done(&bob, "POST", "/invitations/accept", Some(accept.clone()), 200)
        .await;
    assert_eq!(
        (&joined["slug"], &joined["role"]),
        (&json!("acme"), &json!("admin"))
    );
    catalog
        .refused(
            &bob,
            "POST /invitations/accept",
            Some(accept),
            "404 INVITATION_NOT_FOUND",
        )
        .await;
    let listed = catalog
        .done(&ada, "GET", "/orgs/acme/invitations", None, 200)
        .await;
    assert_eq!(listed["total"], 0);
}

#[tokio::test]
async fn admins_manage_all_but_owners_and_an_owner_stays() {
    let catalog = Catalog::start().await;
    let ada = catalog.sign_in(&person("ada")).await.access;
    let bob = catalog.sign_in(&person("bob")).await.access;
    org(&catalog, &ada, "acme").await;
    let invite = json!({"email": "bob@example.test", "role": "admin"});
    let invited = catalog
        .done(&ada, "POST", "/orgs/acme/invitations", Some(invite), 201)
        .await;
    let accept = Some(json!({"token": invited["token"]}));
    catalog
        .done(&bob, "POST", "/invitations/accept", accept, 200)
        .await;
    let (ada_id, bob_id) = (id(&catalog, &ada).await, id(&catalog, &bob).await);
    let owner = Some(json!({"role": "owner"}));
    for target in [&ada_id, &bob_id] {
        let path = format!("/orgs/acme/members/{target}");
        catalog
            .refused(&bob, &format!("PUT {path}"), owner.clone(), "403 FORBIDDEN")
            .await;
    }
    let ada_path = format!("/orgs/acme/members/{ada_id}");
    catalog
        .refused(&bob, &format!("DELETE {ada_path}"), None, "403 FORBIDDEN")
        .await;
    let invite = json!({"email": "x@example.test", "role": "owner"});
    catalog
        .refused(&bob, "POST /orgs/acme/invitations", Some(invite), "403 FORBIDDEN")
        .await;
    // The last owner stays, until there is another.
    catalog
        .refused(&ada, &format!("DELETE {ada_path}"), None, "409 LAST_OWNER")
        .await;
    let viewer = Some(json!({"role": "viewer"}));
    catalog
        .refused(&ada, &format!("PUT {ada_path}"), viewer.clone(), "409 LAST_OWNER")
        .await;
    catalog
        .done(&ada, "PUT", &format!("/orgs/acme/members/{bob_id}"), owner, 204)
        .await;
    catalog.done(&bob, "PUT", &ada_path, viewer, 204).await;
    let members = catalog
        .done(&ada, "GET", "/orgs/acme/members?page_size=1&page=2", None, 200)
        .await;
    assert_eq!(
        (
            &members["total"],
            &members["data"][0]["login"],
            &members["data"][0]["role"]
        ),
        (&json!(2), &json!("bob"), &json!("owner"))
    );
    catalog.done(&ada, "DELETE", &ada_path, None, 204).await;
    catalog
        .refused(&ada, "GET /orgs/acme", None, "404 ORGANIZATION_NOT_FOUND")
        .await;
}

#[tokio::test]
async fn membership_at_github_leads_to_a_role_and_goes_with_it() {
    let catalog = Catalog::start().await;
    let mut ada = person("ada");
    ada["administers"] = json!([1001, 1002, 1003]);
    let ada = catalog.sign_in(&ada).await.access;
    org(&catalog, &ada, "acme").await;
    for (org, role) in [(1001, "viewer"), (1002, "developer")] {
        catalog
            .done(
                &ada,
                "PUT",
                &format!("/orgs/acme/github/{org}"),
                Some(json!({"role": role})),
                204,
            )
            .await;
    }
    let owner = Some(json!({"role": "owner"}));
    catalog
        .refused(&ada, "PUT /orgs/acme/github/1003", owner, "400 INVALID_INPUT")
        .await;
    let with = |orgs: Value| {
        let mut bob = person("bob");
        bob["orgs"] = orgs;
        bob
    };
    let role = async |orgs: Value| {
        let bob = catalog.sign_in(&with(orgs)).await.access;
        catalog.done(&bob, "GET", "/me", None, 200).await["orgs"][0]["role"].clone()
    };
    assert_eq!(role(json!([7])).await, Value::Null);
    assert_eq!(role(json!([1001])).await, "viewer");
    assert_eq!(role(json!([1001, 1002])).await, "developer");
    assert_eq!(role(json!([7])).await, Value::Null);
    // What someone gave here stays, whatever GitHub says.
    let bob = catalog.sign_in(&with(json!([1001]))).await.access;
    let path = format!("/orgs/acme/members/{}", id(&catalog, &bob).await);
    catalog
        .done(&ada, "PUT", &path, Some(json!({"role": "admin"})), 204)
        .await;
    assert_eq!(role(json!([1001])).await, "admin");
    assert_eq!(role(json!([])).await, "admin");
    // A mapping that is gone leaves nobody behind.
    let mut eve = person("eve");
    eve["orgs"] = json!([1002]);
    let eve = catalog.sign_in(&eve).await.access;
    // What changes nothing for them leaves them there.
    for (org, role) in [(1002, "developer"), (1003, "viewer")] {
        let path = format!("/orgs/acme/github/{org}");
        catalog
            .done(&ada, "PUT", &path, Some(json!({"role": role})), 204)
            .await;
    }
    let nothing = "DELETE /orgs/acme/github/1";
    catalog
        .refused(&ada, nothing, None, "404 MAPPING_NOT_FOUND")
        .await;
    catalog.done(&eve, "GET", "/orgs/acme", None, 200).await;
    catalog
        .done(&ada, "DELETE", "/orgs/acme/github/1002", None, 204)
        .await;
    catalog
        .refused(&eve, "GET /orgs/acme", None, "404 ORGANIZATION_NOT_FOUND")
        .await;
    catalog
        .refused(
            &ada,
            "DELETE /orgs/acme/github/1002",
            None,
            "404 MAPPING_NOT_FOUND",
        )
        .await;
}

#[tokio::test]
async fn a_mapping_that_changes_or_goes_reaches_those_who_came_by_it() {
    let catalog = Catalog::start().await;
    let mut ada = person("ada");
    ada["administers"] = json!([1001, 1002]);
    let ada = catalog.sign_in(&ada).await.access;
    org(&catalog, &ada, "acme").await;
    for (org, role) in [(1001, "viewer"), (1002, "developer")] {
        let path = format!("/orgs/acme/github/{org}");
        catalog
            .done(&ada, "PUT", &path, Some(json!({"role": role})), 204)
            .await;
    }
    // By one mapping, by the other, by both.
    let mut members = Vec::new();
    for (name, orgs) in [
        ("eve", json!([1002])),
        ("ann", json!([1001])),
        ("dan", json!([1001, 1002])),
    ] {
        let mut one = person(name);
        one["orgs"] = orgs;
        members.push(catalog.sign_in(&one).await.access);
    }
    let roles = async || {
        let mut roles = Vec::new();
        for token in &members {
            let orgs = catalog.done(token, "GET", "/me", None, 200).await["orgs"].clone();
            roles.push(orgs[0]["role"].as_str().unwrap_or("-").to_owned());
        }
        roles.join(" ")
    };
    assert_eq!(roles().await, "developer viewer developer");
    for (org, role, expected) in [
        (1002, "admin", "admin viewer admin"),
        (1001, "developer", "admin developer admin"),
        (1002, "viewer", "viewer developer developer"),
    ] {
        let path = format!("/orgs/acme/github/{org}");
        catalog
            .done(&ada, "PUT", &path, Some(json!({"role": role})), 204)
            .await;
        assert_eq!(roles().await, expected, "{org} {role}");
    }
    catalog
        .done(&ada, "DELETE", "/orgs/acme/github/1002", None, 204)
        .await;
    assert_eq!(roles().await, "- developer developer");
}

#[tokio::test]
async fn a_cluster_is_its_organizations_and_so_is_its_audience() {
    let catalog =
        Catalog::start_with("[tokens]\nalgorithm = 'EdDSA'\n[limits]\norganizations_per_user_max = 1\n")
            .await;
    let (ada, eve) = (
        catalog.sign_in(&person("ada")).await.access,
        catalog.sign_in(&person("eve")).await.access,
    );
    org(&catalog, &ada, "acme").await;
    org(&catalog, &eve, "evil").await;
    let second = Some(json!({"slug": "acme-2"}));
    catalog
        .refused(&ada, "POST /orgs", second, "409 LIMIT_REACHED")
        .await;
    let cluster = |org: &str, name: &str, audience: &str| {
        Some(
            json!({"organization": org, "name": name, "api_base_url": "http://10.0.0.1:47080", "audience": audience}),
        )
    };
    let made = catalog
        .done(&ada, "POST", "/clusters", cluster("acme", "eu", "acme-eu-1"), 201)
        .await;
    // Nobody else gets tokens for it by an organization of theirs.
    catalog
        .refused(
            &eve,
            "POST /clusters",
            cluster("evil", "eu", "acme-eu-1"),
            "409 AUDIENCE_TAKEN",
        )
        .await;
    catalog
        .refused(
            &eve,
            "POST /clusters",
            cluster("acme", "us", "acme-us-1"),
            "404 ORGANIZATION_NOT_FOUND",
        )
        .await;
    catalog
        .refused(
            &ada,
            "POST /clusters",
            cluster("acme", "eu", "acme-eu-2"),
            "409 NAME_TAKEN",
        )
        .await;
    let own = catalog.url.clone();
    catalog
        .refused(
            &ada,
            "POST /clusters",
            cluster("acme", "us", &own),
            "400 INVALID_INPUT",
        )
        .await;
    let path = format!("/clusters/{}", made["id"].as_str().expect("an id"));
    for method in ["GET", "DELETE"] {
        catalog
            .refused(&eve, &format!("{method} {path}"), None, "404 CLUSTER_NOT_FOUND")
            .await;
    }
    assert_eq!(
        catalog.done(&eve, "GET", "/clusters", None, 200).await["total"],
        0
    );
}

#[tokio::test]
async fn a_cluster_moves_and_goes_and_its_audience_stays_taken() {
    let catalog = Catalog::start().await;
    let (ada, eve) = (
        catalog.sign_in(&person("ada")).await.access,
        catalog.sign_in(&person("eve")).await.access,
    );
    org(&catalog, &ada, "acme").await;
    org(&catalog, &eve, "evil").await;
    let cluster = |org: &str| {
        Some(
            json!({"organization": org, "name": "eu", "api_base_url": "http://10.0.0.1:47080", "audience": "acme-eu-1"}),
        )
    };
    let made = catalog
        .done(&ada, "POST", "/clusters", cluster("acme"), 201)
        .await;
    let path = format!("/clusters/{}", made["id"].as_str().expect("an id"));
    // Left out, it is one that nobody can have taken before.
    let free = json!({"organization": "acme", "name": "us", "api_base_url": "https://us.acme.test"});
    let us = catalog.done(&ada, "POST", "/clusters", Some(free), 201).await;
    assert!(
        us["audience"]
            .as_str()
            .is_some_and(|audience| audience.len() > 40),
        "{us}"
    );
    // An admin renames it, but gets nobody's tokens by moving it.
    let invite = json!({"email": "eve@example.test", "role": "admin"});
    let invited = catalog
        .done(&ada, "POST", "/orgs/acme/invitations", Some(invite), 201)
        .await;
    let accept = Some(json!({"token": invited["token"]}));
    catalog
        .done(&eve, "POST", "/invitations/accept", accept, 200)
        .await;
    let renamed = json!({"name": "eu-west", "api_base_url": "http://10.0.0.1:47080/"});
    catalog.done(&eve, "PUT", &path, Some(renamed), 200).await;
    let stolen = json!({"name": "eu", "api_base_url": "https://evil.test"});
    catalog
        .refused(&eve, &format!("PUT {path}"), Some(stolen), "403 FORBIDDEN")
        .await;
    let moved = json!({"name": "europe", "api_base_url": "https://europe.acme.test"});
    let moved = catalog.done(&ada, "PUT", &path, Some(moved), 200).await;
    assert_eq!(
        (&moved["audience"], &moved["name"]),
        (&json!("acme-eu-1"), &json!("europe"))
    );
    let listed = catalog
        .done(&ada, "GET", "/clusters?organization=acme", None, 200)
        .await;
    assert_eq!((&listed["total"], &listed["data"][0]), (&json!(2), &moved));
    // Whoever takes it once it is free would get into a cluster that still trusts it: it never is.
    catalog.done(&ada, "DELETE", &path, None, 204).await;
    catalog
        .refused(&eve, "POST /clusters", cluster("evil"), "409 AUDIENCE_TAKEN")
        .await;
    catalog.done(&ada, "DELETE", "/orgs/acme", None, 204).await;
    assert_eq!(
        catalog.done(&ada, "GET", "/clusters", None, 200).await["total"],
        0
    );
}

#[tokio::test]
async fn administrators_at_github_enlist_their_organization_while_there_is_room() {
    let limits = "[tokens]\nalgorithm = 'EdDSA'\n[limits]\nper_organization_max = 2\n";
    let catalog = Catalog::start_with(limits).await;
    let mut ada = person("ada");
    ada["administers"] = json!([1001]);
    ada["orgs"] = json!([1004]);
    ada["invited"] = json!([1005]);
    let ada = catalog.sign_in(&ada).await.access;
    org(&catalog, &ada, "acme").await;
    let viewer = Some(json!({"role": "viewer"}));
    for org in [1004, 1005, 9999] {
        let path = format!("PUT /orgs/acme/github/{org}");
        catalog
            .refused(&ada, &path, viewer.clone(), "403 MAPPING_REFUSED")
            .await;
    }
    catalog
        .done(&ada, "PUT", "/orgs/acme/github/1001", viewer, 204)
        .await;
    for (name, orgs) in [("bob", 1), ("eve", 0), ("bob", 1)] {
        let mut one = person(name);
        one["orgs"] = json!([1001]);
        let token = catalog.sign_in(&one).await.access;
        let listed = catalog.done(&token, "GET", "/orgs", None, 200).await;
        assert_eq!(listed["total"], orgs, "{name}");
    }
}

/// The guard lets them through as owners; what they are when it is their turn counts.
#[tokio::test]
async fn who_has_lost_their_role_meanwhile_deletes_nothing() {
    let catalog = Catalog::start().await;
    let ada = catalog.sign_in(&person("ada")).await.access;
    let bob = catalog.sign_in(&person("bob")).await.access;
    org(&catalog, &ada, "acme").await;
    let invitations = "/orgs/acme/invitations";
    let invite = json!({"email": "bob@example.test", "role": "owner"});
    let invited = catalog.done(&ada, "POST", invitations, Some(invite), 201).await;
    let accept = Some(json!({"token": invited["token"]}));
    catalog
        .done(&bob, "POST", "/invitations/accept", accept, 200)
        .await;
    let cluster = json!({"organization": "acme", "name": "eu", "api_base_url": "https://eu.acme.test"});
    let cluster = catalog.done(&ada, "POST", "/clusters", Some(cluster), 201).await;
    let invite = json!({"email": "eve@example.test"});
    let invited = catalog.done(&ada, "POST", invitations, Some(invite), 201).await;
    let named = |path: &str, thing: &Value| format!("{path}/{}", thing["id"].as_str().expect("an id"));
    let bob_id = id(&catalog, &bob).await;
    for path in [
        named("/clusters", &cluster),
        named(invitations, &invited),
        "/orgs/acme".into(),
    ] {
        let mut change = catalog.pool.begin().await.expect("it begins");
        sqlx::query("SELECT id FROM organizations WHERE slug = 'acme' FOR UPDATE")
            .execute(&mut *change)
            .await
            .expect("it is there");
        let role = "UPDATE memberships SET role = $1 WHERE user_id = $2::uuid";
        let lost = sqlx::query(role).bind("viewer").bind(&bob_id);
        lost.execute(&mut *change).await.expect("valid");
        let call = format!("DELETE {path}");
        let settled = async {
            wait_until(SOON, "the call waits for its turn", async || {
                is_waiting(&catalog).await
            })
            .await;
            change.commit().await.expect("valid");
        };
        tokio::join!(catalog.refused(&bob, &call, None, "403 FORBIDDEN"), settled);
        let again = sqlx::query(role).bind("owner").bind(&bob_id);
        again.execute(&catalog.pool).await.expect("valid");
    }
    let cluster = named("/clusters", &cluster);
    catalog.done(&bob, "GET", &cluster, None, 200).await;
    let open = catalog.done(&bob, "GET", invitations, None, 200).await;
    assert_eq!(open["total"], 1);
    let withdrawn = named(invitations, &invited);
    catalog.done(&bob, "DELETE", &withdrawn, None, 204).await;
}

/// Whether someone waits for a row of this database.
async fn is_waiting(catalog: &Catalog) -> Option<()> {
    let waiting: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')",
    )
    .fetch_one(&catalog.pool)
    .await
    .expect("the database is there");
    waiting.then_some(())
}
