//! Accounts, and the organizations they belong to.

use super::{
    deploys::uuid,
    walk::{By, Walk, text},
};
use crate::rows;
use serde_json::json;
use uuid::Uuid;

const EMAIL: &str = "ann@example.org";

/// Ann's first day, until her password is forgotten.
pub(super) async fn accounts(walk: &mut Walk) {
    let account = json!({ "email": EMAIL, "password": "the first one", "name": "Ann" });
    let made = walk
        .call("POST /auth/signup", &[])
        .by(&By::Nobody)
        .json(&account)
        .answers(201)
        .await;
    let other = json!({ "email": "eve@example.org", "password": "long enough", "is_admin": true });
    walk.call("POST /auth/signup", &[])
        .json(&other)
        .answers(201)
        .await;
    let login = json!({ "email": EMAIL, "password": "the first one" });
    let login = walk
        .call("POST /auth/login", &[])
        .by(&By::Nobody)
        .json(&login)
        .answers(200)
        .await;
    let (id, token) = (text(&made, "id"), text(&login, "token"));
    let ann = By::Token(&token);
    walk.call("GET /user", &[]).by(&ann).answers(200).await;

    let key =
        json!({ "name": "continuous integration", "scopes": ["read"], "expires_at": "2099-01-01T00:00:00Z" });
    let key = walk
        .call("POST /api-keys", &[])
        .by(&ann)
        .json(&key)
        .answers(201)
        .await;
    let begun = json!({ "device_name": "ann's laptop" });
    let begun = walk
        .call("POST /auth/cli/initiate", &[])
        .by(&By::Nobody)
        .json(&begun)
        .answers(200)
        .await;
    let approval = json!({ "user_code": begun["user_code"] });
    walk.call("POST /auth/cli/approve", &[])
        .by(&ann)
        .json(&approval)
        .answers(200)
        .await;
    let fetch = json!({ "device_code": begun["device_code"] });
    walk.call("POST /auth/cli/token", &[])
        .by(&By::Nobody)
        .json(&fetch)
        .answers(200)
        .await;
    walk.call("GET /api-keys?sort_by=name", &[])
        .by(&ann)
        .answers(200)
        .await;
    walk.call("DELETE /api-keys/{id}", &[&text(&key, "id")])
        .by(&ann)
        .answers(204)
        .await;
    passwords(walk, &id, &ann).await;
}

/// A password that is changed, then forgotten.
async fn passwords(walk: &mut Walk, id: &str, ann: &By<'_>) {
    let change = json!({ "current_password": "the first one", "new_password": "the second one" });
    walk.call("POST /user/password", &[])
        .by(ann)
        .json(&change)
        .answers(200)
        .await;
    walk.call("GET /users?email={e}", &[EMAIL]).answers(200).await;
    walk.call("GET /users/{id}", &[id]).answers(200).await;
    walk.call("POST /users/{id}/disable", &[id]).answers(200).await;
    walk.call("POST /users/{id}/enable", &[id]).answers(200).await;
    let reset = walk
        .call("POST /users/{id}/reset-password", &[id])
        .answers(201)
        .await;
    let reset = json!({ "token": reset["token"], "new_password": "the third one" });
    walk.call("POST /auth/reset-password", &[])
        .by(&By::Nobody)
        .json(&reset)
        .answers(200)
        .await;
    let login = json!({ "email": EMAIL, "password": "the third one" });
    let login = walk.api.post("/auth/login", login).await.expect(200).json();
    let token = text(&login, "token");
    walk.call("POST /auth/logout", &[])
        .by(&By::Token(&token))
        .answers(204)
        .await;
}

/// An organization that Bob makes, and Cleo joins and leaves.
pub(super) async fn organizations(walk: &mut Walk) {
    let (bob, _) = account(walk, "Bob").await;
    let (cleo, cleo_id) = account(walk, "Cleo").await;
    let (bob, cleo) = (By::Token(&bob), By::Token(&cleo));
    let acme = json!({ "slug": "acme", "name": "Acme Corporation" });
    let acme = walk
        .call("POST /orgs", &[])
        .by(&bob)
        .json(&acme)
        .answers(201)
        .await;
    let acme = text(&acme, "id");
    walk.call("GET /orgs", &[]).by(&bob).answers(200).await;
    let namespace = json!({ "name": "acme-web", "organization": "acme" });
    walk.call("POST /namespaces", &[])
        .by(&bob)
        .json(&namespace)
        .answers(201)
        .await;
    walk.call("GET /namespaces", &[]).by(&bob).answers(200).await;
    members(walk, &bob, (&cleo, &cleo_id), uuid(&acme)).await;
    let quota = json!({ "applications": 5, "memory_bytes": 1 << 30 });
    walk.call("PUT /orgs/{slug}/quota", &["acme"])
        .json(&quota)
        .answers(200)
        .await;
    walk.call("GET /orgs/{slug}/quota", &["acme"])
        .by(&bob)
        .answers(200)
        .await;
}

/// Cleo is invited, comes, rises and leaves; Dora is removed.
async fn members(walk: &mut Walk, bob: &By<'_>, (cleo, cleo_id): (&By<'_>, &str), acme: Uuid) {
    let invitation = json!({ "email": "cleo@example.org", "role": "developer" });
    let invited = walk
        .call("POST /orgs/{slug}/invitations", &["acme"])
        .by(bob)
        .json(&invitation);
    let invited = invited.answers(201).await;
    let mistaken = json!({ "email": "clio@example.org" });
    let mistaken = walk
        .call("POST /orgs/{slug}/invitations", &["acme"])
        .by(bob)
        .json(&mistaken);
    let mistaken = text(&mistaken.answers(201).await, "id");
    walk.call("GET /orgs/{slug}/invitations", &["acme"])
        .by(bob)
        .answers(200)
        .await;
    walk.call("DELETE /orgs/{slug}/invitations/{id}", &["acme", &mistaken])
        .by(bob)
        .answers(204)
        .await;
    let token = json!({ "token": invited["token"] });
    walk.call("POST /invitations/accept", &[])
        .by(cleo)
        .json(&token)
        .answers(200)
        .await;
    walk.call("GET /orgs/{slug}/members", &["acme"])
        .by(bob)
        .answers(200)
        .await;
    let member = ["acme", cleo_id];
    let role = json!({ "role": "admin" });
    walk.call("PUT /orgs/{slug}/members/{user_id}", &member)
        .by(bob)
        .json(&role)
        .answers(200)
        .await;
    walk.call("DELETE /orgs/{slug}/membership", &["acme"])
        .by(cleo)
        .answers(204)
        .await;
    let (_, dora) = account(walk, "Dora").await;
    rows::member(&walk.api.pool, uuid(&dora), acme, "viewer").await;
    let dora = ["acme", dora.as_str()];
    walk.call("DELETE /orgs/{slug}/members/{user_id}", &dora)
        .by(bob)
        .answers(204)
        .await;
}

/// An account that is logged in; its token and id.
async fn account(walk: &Walk, name: &str) -> (String, String) {
    let email = format!("{}@example.org", name.to_lowercase());
    let account = json!({ "email": email, "password": "long enough", "name": name });
    let id = walk.api.post("/auth/signup", account).await.expect(201).id();
    let login = json!({ "email": email, "password": "long enough" });
    let login = walk.api.post("/auth/login", login).await.expect(200).json();
    (text(&login, "token"), id)
}
