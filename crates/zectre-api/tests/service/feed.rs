//! The activity feed as the audit log: whom it tells of what, and for how long.

use crate::{harness::Harness, rows, webhooks::Receiver};
use reqwest::Method;
use serde_json::json;

/// The key of someone with this role in the organization.
async fn member(api: &Harness, organization: &rows::Organization, role: &str) -> String {
    let (user, key) = rows::user(&api.pool, false).await;
    rows::member(&api.pool, user, organization.id, role).await;
    key
}

#[tokio::test]
async fn what_happened_to_an_application_is_told_when_its_rows_are_gone() {
    let api = Harness::start().await;
    let (ours, theirs) = (
        rows::organization(&api.pool).await,
        rows::organization(&api.pool).await,
    );
    let (owner, viewer) = (
        member(&api, &ours, "owner").await,
        member(&api, &ours, "viewer").await,
    );
    let stranger = member(&api, &theirs, "owner").await;
    let app = json!({ "name": "shop", "namespace": ours.slug });
    let app = api.call(&owner, Method::POST, "/apps", Some(app)).await;
    let app = app.expect(201).id();
    api.call(&owner, Method::DELETE, &format!("/apps/{app}"), None)
        .await
        .expect(204);
    // As housekeeping does it a minute later.
    let purged = sqlx::query("DELETE FROM applications WHERE id = $1::uuid").bind(&app);
    let purged = purged.execute(&api.pool).await.expect("valid");
    assert_eq!(purged.rows_affected(), 1);
    let feed = async |key: &str| {
        let path = format!("/events?application_id={app}&sort_order=asc");
        let events = api.call(key, Method::GET, &path, None).await.expect(200).json();
        let events = events["data"].as_array().expect("a list").iter();
        events
            .map(|event| {
                let action = event["action"].as_str().expect("text").to_owned();
                (action, event["source_address"].is_string())
            })
            .collect::<Vec<_>>()
    };
    let told = |from: bool| ["app.created", "app.deleted"].map(|action| (action.to_owned(), from));
    assert_eq!(feed(&owner).await, told(true));
    assert_eq!(feed(&viewer).await, told(false));
    assert!(feed(&stranger).await.is_empty());
    api.stop().await;
}

#[tokio::test]
async fn a_webhook_is_told_what_happens_to_its_organization_itself() {
    let api = Harness::start_with("webhooks.allow_private = true").await;
    let receiver = Receiver::start(None).await;
    let (ours, theirs) = (
        rows::organization(&api.pool).await,
        rows::organization(&api.pool).await,
    );
    let owner = member(&api, &ours, "owner").await;
    let hook = json!({ "url": receiver.url(), "organization": ours.slug, "events": ["*"] });
    api.call(&owner, Method::POST, "/webhooks", Some(hook))
        .await
        .expect(201);
    // It is told neither of its own making nor of what others do.
    for organization in [&theirs, &ours] {
        let path = format!("/orgs/{}/invitations", organization.slug);
        api.post(&path, json!({ "email": "new@example.org" }))
            .await
            .expect(201);
    }
    let calls = receiver.called(1).await;
    assert_eq!(calls.len(), 1);
    let body = &calls[0].body;
    assert!(
        body.contains("invitation.created") && body.contains(&ours.slug) && !body.contains("zi_"),
        "{body}"
    );
    api.stop().await;
}

#[tokio::test]
async fn which_variables_were_set_and_removed_is_told_and_no_value() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let path = format!("/apps/{app}/env");
    let many = json!([
        { "key": "A", "value": "planted" },
        { "key": "B", "value": "planted", "environment": "production" },
        { "key": "NEVER_SET", "value": null },
    ]);
    let less = json!([
        { "key": "A", "value": null },
        { "key": "C", "value": "planted", "secret": true },
    ]);
    for changes in [many, less, json!([])] {
        api.call(&api.admin, Method::PATCH, &path, Some(changes))
            .await
            .expect(200);
    }
    let one = format!("{path}/B?environment=production");
    api.call(&api.admin, Method::DELETE, &one, None).await.expect(204);
    let events = api.get("/events?sort_order=asc").await.expect(200);
    assert!(!events.text.contains("planted"));
    let events = events.json();
    let told = events["data"].as_array().expect("a list").iter();
    let told: Vec<_> = told
        .map(|event| (event["action"].as_str(), event["message"].as_str()))
        .filter(|(action, _)| action.is_some_and(|action| action.starts_with("variable.")))
        .collect();
    assert_eq!(
        told,
        [
            ("variable.set", "variables were set: `A`, `B` of `production`"),
            ("variable.set", "variables were set: `C`"),
            ("variable.deleted", "variables were removed: `A`"),
            ("variable.deleted", "variables were removed: `B` of `production`"),
        ]
        .map(|(action, message)| (Some(action), Some(message)))
    );
    api.stop().await;
}
