//! Members of organizations, invitations, and accounts that are disabled.

use crate::{
    harness::{Answer, Harness, normal},
    rows,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;
use zectre_testkit::wait_until;

/// For what comes at once on an idle machine.
const SOON: Duration = Duration::from_secs(60);

/// An organization with a member of each role, and calls on its members.
struct Team {
    api: Harness,
    slug: String,
    organization: Uuid,
}

impl Team {
    async fn start() -> Self {
        let api = Harness::start().await;
        let organization = rows::organization(&api.pool).await;
        Self {
            api,
            slug: organization.slug,
            organization: organization.id,
        }
    }

    async fn member(&self, role: &str) -> (Uuid, String) {
        let (user, key) = rows::user(&self.api.pool, false).await;
        rows::member(&self.api.pool, user, self.organization, role).await;
        (user, key)
    }

    async fn set(&self, key: &str, user: Uuid, role: &str) -> Answer {
        let path = format!("/orgs/{}/members/{user}", self.slug);
        self.api
            .call(key, Method::PUT, &path, Some(json!({ "role": role })))
            .await
    }

    async fn remove(&self, key: &str, user: Uuid) -> Answer {
        let path = format!("/orgs/{}/members/{user}", self.slug);
        self.api.call(key, Method::DELETE, &path, None).await
    }

    async fn leave(&self, key: &str) -> Answer {
        let path = format!("/orgs/{}/membership", self.slug);
        self.api.call(key, Method::DELETE, &path, None).await
    }

    async fn invite(&self, key: &str, email: &str, role: &str) -> Answer {
        let path = format!("/orgs/{}/invitations", self.slug);
        let body = json!({ "email": email, "role": role });
        self.api.call(key, Method::POST, &path, Some(body)).await
    }

    async fn accept(&self, key: &str, token: &str) -> Answer {
        let body = json!({ "token": token });
        self.api
            .call(key, Method::POST, "/invitations/accept", Some(body))
            .await
    }

    async fn roles(&self, key: &str) -> Vec<String> {
        let path = format!("/orgs/{}/members?sort_by=created_at", self.slug);
        let list = self
            .api
            .call(key, Method::GET, &path, None)
            .await
            .expect(200)
            .json();
        let rows = list["data"].as_array().expect("a list");
        rows.iter()
            .map(|row| row["role"].as_str().expect("a role").to_owned())
            .collect()
    }
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    assert_eq!(answer.code(), code);
}

#[tokio::test]
async fn the_last_owner_stays_and_an_admin_makes_no_owner() {
    let team = Team::start().await;
    let (owner, owner_key) = team.member("owner").await;
    let (admin, admin_key) = team.member("admin").await;
    let (developer, developer_key) = team.member("developer").await;
    refused(&team.set(&owner_key, owner, "admin").await, 409, "LAST_OWNER");
    refused(&team.remove(&owner_key, owner).await, 409, "LAST_OWNER");
    refused(&team.leave(&owner_key).await, 409, "LAST_OWNER");
    refused(&team.remove(&team.api.admin, owner).await, 409, "LAST_OWNER");
    refused(&team.set(&admin_key, developer, "owner").await, 403, "FORBIDDEN");
    refused(&team.set(&admin_key, admin, "owner").await, 403, "FORBIDDEN");
    refused(&team.set(&admin_key, owner, "viewer").await, 403, "FORBIDDEN");
    refused(&team.remove(&admin_key, owner).await, 403, "FORBIDDEN");
    refused(
        &team.invite(&admin_key, "a@example.org", "owner").await,
        403,
        "FORBIDDEN",
    );
    refused(
        &team.set(&developer_key, developer, "admin").await,
        403,
        "FORBIDDEN",
    );
    assert_eq!(team.roles(&developer_key).await, ["owner", "admin", "developer"]);
    team.api.stop().await;
}

#[tokio::test]
async fn members_come_change_and_go() {
    let team = Team::start().await;
    let (_, owner_key) = team.member("owner").await;
    let (admin, admin_key) = team.member("admin").await;
    let (developer, _) = team.member("developer").await;
    // Someone who is no member: only an admin of the cluster knows of them.
    let (stranger, stranger_key) = rows::user(&team.api.pool, false).await;
    refused(
        &team.set(&owner_key, stranger, "viewer").await,
        404,
        "MEMBER_NOT_FOUND",
    );
    refused(
        &team.set(&owner_key, Uuid::now_v7(), "viewer").await,
        404,
        "MEMBER_NOT_FOUND",
    );
    refused(
        &team.set(&stranger_key, stranger, "owner").await,
        404,
        "ORGANIZATION_NOT_FOUND",
    );
    team.set(&team.api.admin, stranger, "viewer").await.expect(200);
    refused(&team.remove(&stranger_key, developer).await, 403, "FORBIDDEN");
    team.leave(&stranger_key).await.expect(204);
    refused(&team.leave(&stranger_key).await, 404, "ORGANIZATION_NOT_FOUND");
    let changed = team.set(&admin_key, developer, "viewer").await.expect(200).json();
    assert_eq!(
        (&changed["role"], &changed["user_id"]),
        (&json!("viewer"), &json!(developer))
    );
    // With a second owner the first one may go; a disabled one doesn't count.
    team.set(&owner_key, admin, "owner").await.expect(200);
    team.api.act(&format!("/users/{admin}/disable")).await.expect(200);
    refused(&team.leave(&owner_key).await, 409, "LAST_OWNER");
    team.api.act(&format!("/users/{admin}/enable")).await.expect(200);
    team.leave(&owner_key).await.expect(204);
    refused(
        &team.set(&owner_key, developer, "admin").await,
        404,
        "ORGANIZATION_NOT_FOUND",
    );
    let events = team
        .api
        .call(&admin_key, Method::GET, "/events?page_size=100", None)
        .await
        .json();
    let actions: Vec<_> = events["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| event["action"].as_str().expect("text").to_owned())
        .collect();
    assert_eq!(
        actions,
        [
            "member.removed",
            "member.changed",
            "member.changed",
            "member.removed",
            "member.added"
        ]
    );
    team.api.stop().await;
}

#[tokio::test]
async fn two_owners_who_leave_at_once_do_not_both_go() {
    let team = Team::start().await;
    for _ in 0..10 {
        let (_, first) = team.member("owner").await;
        let (_, second) = team.member("owner").await;
        let (one, other) = tokio::join!(team.leave(&first), team.leave(&second));
        let mut answers = [one.status.as_u16(), other.status.as_u16()];
        answers.sort_unstable();
        assert_eq!(answers, [204, 409], "one goes, one stays");
        sqlx::query("DELETE FROM memberships WHERE organization_id = $1")
            .bind(team.organization)
            .execute(&team.api.pool)
            .await
            .expect("valid");
    }
    team.api.stop().await;
}

fn token(made: &Value) -> String {
    made["token"].as_str().expect("shown once").to_owned()
}

#[tokio::test]
async fn an_invitation_is_for_one_address_and_taken_once() {
    let team = Team::start().await;
    let (_, admin_key) = team.member("admin").await;
    let (ann, ann_key) = rows::user(&team.api.pool, false).await;
    let (_, bob_key) = rows::user(&team.api.pool, false).await;
    let email = format!("{ann}@EXAMPLE.org");
    let bad = team.invite(&admin_key, "nobody", "viewer").await.expect(400);
    assert_eq!(bad.code(), "INVALID_EMAIL");
    let first = team.invite(&admin_key, &email, "admin").await.expect(201).json();
    let made = team.invite(&admin_key, &email, "developer").await.expect(201);
    let mut shown = normal(&made.json());
    shown["email"] = "[email]".into();
    shown["organization"] = "[slug]".into();
    insta::assert_json_snapshot!("invitation_created", shown);
    let list_path = format!("/orgs/{}/invitations", team.slug);
    let list = team
        .api
        .call(&admin_key, Method::GET, &list_path, None)
        .await
        .expect(200);
    assert!(list.json()["total"] == 1 && !list.text.contains(&token(&made.json())));
    // The first was replaced, and someone else's account can't take the second.
    refused(
        &team.accept(&ann_key, &token(&first)).await,
        404,
        "INVITATION_NOT_FOUND",
    );
    refused(
        &team.accept(&bob_key, &token(&made.json())).await,
        404,
        "INVITATION_NOT_FOUND",
    );
    let taken = team
        .accept(&ann_key, &token(&made.json()))
        .await
        .expect(200)
        .json();
    assert_eq!(taken["role"], "developer");
    refused(
        &team.accept(&ann_key, &token(&made.json())).await,
        404,
        "INVITATION_NOT_FOUND",
    );
    assert_eq!(team.roles(&ann_key).await, ["admin", "developer"]);
    // A lower offer takes nothing away.
    let lower = team.invite(&admin_key, &email, "viewer").await.expect(201).json();
    assert_eq!(
        team.accept(&ann_key, &token(&lower)).await.expect(200).json()["role"],
        "developer"
    );
    team.api.stop().await;
}

/// Whoever invites the address again holds the organization, and then deletes the invitation.
#[tokio::test]
async fn who_accepts_waits_for_the_organization_before_the_invitation_is_theirs() {
    let team = Team::start().await;
    let (_, admin_key) = team.member("admin").await;
    let (ann, ann_key) = rows::user(&team.api.pool, false).await;
    let email = format!("{ann}@example.org");
    let made = team.invite(&admin_key, &email, "viewer").await.expect(201).json();
    let mut again = team.api.pool.begin().await.expect("the database is there");
    for hold in [
        "SET LOCAL lock_timeout = '200ms'",
        "SELECT 1 FROM organizations FOR UPDATE",
    ] {
        sqlx::query(hold).execute(&mut *again).await.expect(hold);
    }
    let replaced = async {
        wait_until(SOON, "the other one waits", async || {
            (rows::waiting(&team.api.pool).await == 1).then_some(())
        })
        .await;
        sqlx::query("DELETE FROM invitations")
            .execute(&mut *again)
            .await
            .expect("nobody else has it");
        again.commit().await.expect("it is committed");
    };
    let offered = token(&made);
    let (accepted, ()) = tokio::join!(team.accept(&ann_key, &offered), replaced);
    refused(&accepted, 404, "INVITATION_NOT_FOUND");
    let anew = team.invite(&admin_key, &email, "viewer").await.expect(201).json();
    team.accept(&ann_key, &token(&anew)).await.expect(200);
    team.api.stop().await;
}

#[tokio::test]
async fn an_invitation_ends_and_there_are_not_too_many() {
    let team = Team::start().await;
    let (_, admin_key) = team.member("admin").await;
    let (ann, ann_key) = rows::user(&team.api.pool, false).await;
    let (email, list_path) = (
        format!("{ann}@example.org"),
        format!("/orgs/{}/invitations", team.slug),
    );
    // Withdrawn or past its time, it is worth nothing.
    let withdrawn = team.invite(&admin_key, &email, "admin").await.expect(201);
    let path = format!("{list_path}/{}", withdrawn.id());
    team.api
        .call(&admin_key, Method::DELETE, &path, None)
        .await
        .expect(204);
    let again = team.api.call(&admin_key, Method::DELETE, &path, None).await;
    assert_eq!(again.expect(404).code(), "INVITATION_NOT_FOUND");
    refused(
        &team.accept(&ann_key, &token(&withdrawn.json())).await,
        404,
        "INVITATION_NOT_FOUND",
    );
    let late = team.invite(&admin_key, &email, "admin").await.expect(201).json();
    sqlx::query("UPDATE invitations SET expires_at = now()")
        .execute(&team.api.pool)
        .await
        .expect("valid");
    refused(
        &team.accept(&ann_key, &token(&late)).await,
        404,
        "INVITATION_NOT_FOUND",
    );
    // One more than may be open.
    sqlx::query(
        "INSERT INTO invitations (id, organization_id, email, role, token_hash, expires_at)
         SELECT gen_random_uuid(), $1, n || '@example.org', 'viewer', n::text::bytea, now() + interval '1 day'
         FROM generate_series(1, 100) AS n",
    )
    .bind(team.organization)
    .execute(&team.api.pool)
    .await
    .expect("valid");
    let many = team
        .invite(&admin_key, "one@more.org", "viewer")
        .await
        .expect(409);
    many.shows("TOO_MANY_INVITATIONS");
    team.invite(&admin_key, "7@example.org", "admin")
        .await
        .expect(201);
    // What ended unused is told once, whoever noticed it.
    let told = team.api.get("/events?action=invitation.expired").await.json();
    assert_eq!(told["total"], 1);
    let (actor, message) = (&told["data"][0]["actor"], &told["data"][0]["message"]);
    assert!(
        actor == "zectre-api" && message.as_str().is_some_and(|text| text.contains(&email)),
        "{told}"
    );
    team.api.stop().await;
}

#[tokio::test]
async fn a_disabled_account_is_out_at_once() {
    let api = Harness::start().await;
    let account = json!({ "email": "ann@example.org", "password": "long enough" });
    let ann = api.post("/auth/signup", account.clone()).await.expect(201).id();
    let login = || api.request(Method::POST, "/auth/login").json(&account);
    let token = |answer: Answer| token(&answer.json());
    let old = token(api.send(login()).await.expect(200));
    let by_token = async |token: &str| {
        api.send(api.request(Method::GET, "/user").bearer_auth(token))
            .await
    };
    let make_key = api.request(Method::POST, "/api-keys").bearer_auth(&old);
    let made = api
        .send(make_key.json(&json!({ "name": "x" })))
        .await
        .expect(201)
        .json();
    let key = made["key"].as_str().expect("a key");
    let listed = api.get("/users?email=ANN@example.org").await.expect(200).json();
    insta::assert_json_snapshot!("users", normal(&listed));
    assert_eq!(
        api.get("/users?disabled=true").await.expect(200).json()["total"],
        0
    );

    let disabled = api.act(&format!("/users/{ann}/disable")).await.expect(200).json();
    assert_eq!(disabled["disabled"], true);
    api.act(&format!("/users/{ann}/disable")).await.expect(200);
    for answer in [
        by_token(&old).await,
        api.call(key, Method::GET, "/user", None).await,
        api.send(login()).await,
    ] {
        assert_eq!(answer.expect(403).code(), "ACCOUNT_DISABLED");
    }
    // Who has no credential of it learns nothing.
    let wrong = json!({ "email": "ann@example.org", "password": "wrong enough" });
    let guess = api
        .send(api.request(Method::POST, "/auth/login").json(&wrong))
        .await;
    assert_eq!(guess.expect(401).code(), "INVALID_CREDENTIALS");
    assert_eq!(
        api.get("/users?disabled=true").await.expect(200).json()["total"],
        1
    );

    let enabled = api.act(&format!("/users/{ann}/enable")).await.expect(200).json();
    assert_eq!(enabled["disabled"], false);
    assert_eq!(by_token(&old).await.expect(401).code(), "UNAUTHENTICATED");
    api.call(key, Method::GET, "/user", None).await.expect(200);
    by_token(&token(api.send(login()).await.expect(200)))
        .await
        .expect(200);

    let admins = api.get("/users").await.expect(200).json();
    let admin = admins["data"][0]["id"]
        .as_str()
        .expect("the first by address")
        .to_owned();
    let last = api.act(&format!("/users/{admin}/disable")).await.expect(409);
    assert_eq!(last.code(), "LAST_ADMIN");
    let unknown = api.act(&format!("/users/{}/disable", Uuid::now_v7())).await;
    assert_eq!(unknown.expect(404).code(), "USER_NOT_FOUND");
    for (action, count) in [("user.disabled", 1), ("user.enabled", 1)] {
        let events = api.get(&format!("/events?action={action}")).await.json();
        assert_eq!(events["total"], count, "{action}");
    }
    api.stop().await;
}
