//! Every route has a policy, and every kind of caller gets what it says.

use crate::harness::{Catalog, person};
use reqwest::Method;
use serde_json::json;
use zectre_catalog::{
    code,
    policy::Policy,
    routes::{Route, routes},
};
use zectre_common::state::Role;

/// The status that the guard gives to this caller; `None` when it lets them through.
fn barred(policy: Policy, caller: Caller) -> Option<u16> {
    let least = match policy {
        Policy::Public => return None,
        Policy::SignedIn | Policy::Named(_) => return (caller == Caller::Anonymous).then_some(401),
        Policy::Organization(least) | Policy::Cluster(least) => least,
    };
    match caller {
        Caller::Anonymous => Some(401),
        Caller::Outsider => Some(404),
        Caller::Member(role) => (role < least).then_some(403),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Anonymous,
    Outsider,
    Member(Role),
}

/// What nobody may be let through to here: it would change who the others are.
fn path(route: &Route, cluster: &str) -> String {
    route
        .path
        .replace("{slug}", "acme")
        .replace(
            "{id}",
            if route.path.contains("clusters") {
                cluster
            } else {
                "0198f2c4-7c3e-7a51-9d0e-3f6f2f4f8a11"
            },
        )
        .replace("{user_id}", "0198f2c4-7c3e-7a51-9d0e-3f6f2f4f8a11")
        .replace("{github_org_id}", "77")
}

#[tokio::test]
async fn every_route_keeps_its_policy() {
    let catalog = Catalog::start().await;
    let owner = catalog.sign_in(&person("owner")).await.access;
    catalog
        .done(&owner, "POST", "/orgs", Some(json!({"slug": "acme"})), 201)
        .await;
    let cluster = json!({"organization": "acme", "name": "eu", "api_base_url": "https://eu.acme.test"});
    let cluster = catalog
        .done(&owner, "POST", "/clusters", Some(cluster), 201)
        .await;
    let cluster = cluster["id"].as_str().expect("an id");
    let mut callers = vec![
        (Caller::Anonymous, String::new()),
        (Caller::Member(Role::Owner), owner.clone()),
    ];
    for role in [Role::Viewer, Role::Developer, Role::Admin] {
        let invite = json!({"email": format!("{role}@example.test"), "role": role});
        let invited = catalog
            .done(&owner, "POST", "/orgs/acme/invitations", Some(invite), 201)
            .await;
        let member = catalog.sign_in(&person(role.as_str())).await.access;
        catalog
            .done(
                &member,
                "POST",
                "/invitations/accept",
                Some(json!({"token": invited["token"]})),
                200,
            )
            .await;
        callers.push((Caller::Member(role), member));
    }
    callers.push((Caller::Outsider, catalog.sign_in(&person("eve")).await.access));
    let mut seen = 0;
    for route in routes() {
        for (caller, token) in &callers {
            let path = path(&route, cluster);
            let method = Method::from_bytes(route.method.as_bytes()).expect("a method");
            let barred = barred(route.policy, *caller);
            // Let through, these would take away what the others are looked at with.
            if route.method == "DELETE" && barred.is_none() && !route.path.contains("/orgs/{slug}/") {
                continue;
            }
            // A body that no handler takes: who is let through gets 4xx from the handler where it wants one.
            let mut request = catalog.request(method, &path).json(&json!({"no such field": 1}));
            if !token.is_empty() {
                request = request.bearer_auth(token);
            }
            let status = request.send().await.expect("it answers").status().as_u16();
            match barred {
                Some(expected) => assert_eq!(status, expected, "{caller:?} {} {path}", route.method),
                None => {
                    assert!(
                        !matches!(status, 401 | 403) && status < 500,
                        "{caller:?} {} {path}: {status}",
                        route.method
                    );
                }
            }
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
}

#[tokio::test]
async fn what_is_sent_is_read_strictly() {
    let catalog = Catalog::start().await;
    let ada = catalog.sign_in(&person("ada")).await.access;
    for (path, body) in [
        ("/orgs", json!({"slug": "Acme"})),
        ("/orgs", json!({"slug": "a", "nmae": "x"})),
        ("/orgs", json!({"slug": "-a"})),
        ("/orgs", json!({"slug": "1a"})),
        ("/orgs", json!({"slug": "a".repeat(41)})),
        ("/orgs", json!({"slug": "a", "name": ""})),
        ("/orgs", json!({"slug": "a", "name": "Acme\u{2800}"})),
        ("/orgs", json!({"slug": "a", "name": "Acme\u{fe0f}"})),
        ("/orgs", json!([])),
    ] {
        catalog
            .refused(&ada, &format!("POST {path}"), Some(body), "400 INVALID_INPUT")
            .await;
    }
    catalog
        .done(&ada, "POST", "/orgs", Some(json!({"slug": "acme"})), 201)
        .await;
    catalog
        .refused(
            &ada,
            "POST /orgs",
            Some(json!({"slug": "acme"})),
            "409 SLUG_TAKEN",
        )
        .await;
    for (url, audience) in [
        ("ftp://x", "good-audience"),
        ("https://u:p@x", "good-audience"),
        ("https://x", "short"),
        ("https://x", "with a space"),
    ] {
        let body = json!({"organization": "acme", "name": "eu", "api_base_url": url, "audience": audience});
        catalog
            .refused(&ada, "POST /clusters", Some(body), "400 INVALID_INPUT")
            .await;
    }
    for email in ["nobody", "bob@example.test\u{200b}", "b\u{e0041}ob@example.test"] {
        let invite = json!({ "email": email });
        catalog
            .refused(
                &ada,
                "POST /orgs/acme/invitations",
                Some(invite),
                "400 INVALID_INPUT",
            )
            .await;
    }
    // No filter is passed over.
    catalog
        .refused(&ada, "GET /clusters?organization=%00", None, "400 INVALID_INPUT")
        .await;
    catalog
        .refused(&ada, "GET /orgs?page=0", None, "400 INVALID_INPUT")
        .await;
    catalog
        .refused(&ada, "GET /orgs?sort=slug", None, "400 INVALID_QUERY")
        .await;
    catalog
        .refused(&ada, "GET /clusters/x", None, "400 INVALID_PATH")
        .await;
    catalog
        .refused(&ada, "GET /orgs/%00", None, "400 INVALID_PATH")
        .await;
    catalog.refused(&ada, "GET /nothing", None, "404 NOT_FOUND").await;
    let json_token = catalog
        .request(Method::POST, "/oauth/token")
        .json(&json!({"grant_type": "refresh_token"}));
    assert_eq!(json_token.send().await.expect("it answers").status(), 400);
}

#[test]
fn the_documentation_lists_every_code() {
    let page = include_str!("../../../../docs/AUTH_CATALOG.md");
    for code in code::ALL {
        let row = format!(
            "| `{}` | {} | {} |",
            code.name,
            code.status.as_u16(),
            code.meaning
        );
        assert!(page.contains(&row), "docs/AUTH_CATALOG.md lacks: {row}");
    }
}
