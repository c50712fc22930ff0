//! What was done: who, what, to whom or what, from where and when. Written in the transaction of the change, never changed (migration 0005),
//! and deleted after 90 days. No secret is in one.

use crate::{error::Error, page::Window};
use sqlx::{PgConnection, PgPool};
use std::net::IpAddr;
use uuid::Uuid;
use zectre_common::{
    id::{EventId, OrganizationId, UserId},
    wire::{catalog::Event, page::Page},
};
use zectre_service::request_id;

/// Who does something, and from where.
#[derive(Debug, Clone)]
pub struct By {
    /// The account.
    pub user: UserId,
    /// Its name at GitHub.
    pub login: String,
    /// Whoever is connected.
    pub address: Option<IpAddr>,
}

/// Something that was done.
#[derive(Debug, Clone)]
pub struct Done {
    /// In which organization.
    pub organization: Option<OrganizationId>,
    /// `thing.what`.
    pub action: &'static str,
    /// To which account, invitation or cluster.
    pub subject_id: Option<Uuid>,
    /// By the name that people know.
    pub subject: String,
    /// A sentence.
    pub message: String,
}

impl Done {
    /// In an organization.
    pub fn within(
        organization: OrganizationId,
        action: &'static str,
        (subject_id, subject): (Uuid, &str),
        message: String,
    ) -> Self {
        Self {
            organization: Some(organization),
            action,
            subject_id: Some(subject_id),
            subject: subject.into(),
            message,
        }
    }
}

/// Writes down what a person did.
pub async fn write(connection: &mut PgConnection, by: &By, all: &[Done]) -> Result<(), Error> {
    insert(connection, (Some(by.user), &by.login), by.address, all).await
}

/// Writes down what the catalog did by itself, because of what came from `address`.
pub async fn write_own(
    connection: &mut PgConnection,
    address: Option<IpAddr>,
    all: &[Done],
) -> Result<(), Error> {
    insert(connection, (None, crate::NAME), address, all).await
}

async fn insert(
    connection: &mut PgConnection,
    (actor_id, actor): (Option<UserId>, &str),
    address: Option<IpAddr>,
    all: &[Done],
) -> Result<(), Error> {
    if all.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = all.iter().map(|_| EventId::new().get()).collect();
    let organizations: Vec<_> = all
        .iter()
        .map(|one| one.organization.map(OrganizationId::get))
        .collect();
    let actions: Vec<_> = all.iter().map(|one| one.action.to_owned()).collect();
    let subject_ids: Vec<_> = all.iter().map(|one| one.subject_id).collect();
    let subjects: Vec<_> = all.iter().map(|one| one.subject.clone()).collect();
    let messages: Vec<_> = all.iter().map(|one| one.message.clone()).collect();
    sqlx::query!(
        "INSERT INTO events (id, actor_id, actor, action, organization_id, subject_id, subject, message, source_address, request_id)
         SELECT id, $1, $2, action, organization_id, subject_id, subject, message, $3, $4
         FROM unnest($5::uuid[], $6::text[], $7::uuid[], $8::uuid[], $9::text[], $10::text[])
             AS happened (id, action, organization_id, subject_id, subject, message)",
        actor_id as _,
        actor,
        address.map(|address| address.to_string()),
        request_id::current(),
        &ids,
        &actions,
        &organizations as _,
        &subject_ids as _,
        &subjects,
        &messages
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Those of an organization, the newest first.
pub async fn of_organization(
    pool: &PgPool,
    organization: OrganizationId,
    window: Window,
) -> Result<Page<Event>, Error> {
    let rows = sqlx::query_as!(
        Event,
        r#"SELECT id AS "id: EventId", time, actor_id AS "actor_id: UserId", actor, action, subject, message, source_address, request_id
           FROM events WHERE organization_id = $1 ORDER BY time DESC, id DESC LIMIT $2 OFFSET $3"#,
        organization as _,
        window.limit(),
        window.offset()
    )
    .fetch_all(pool)
    .await?;
    let total = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM events WHERE organization_id = $1"#,
        organization as _
    )
    .fetch_one(pool)
    .await?;
    Ok(window.page(rows, total))
}

/// What `user` did and what was done to them, the newest first. Where others were when they did it is not told.
pub async fn of_user(pool: &PgPool, user: UserId, window: Window) -> Result<Page<Event>, Error> {
    let rows = sqlx::query_as!(
        Event,
        r#"SELECT id AS "id: EventId", time, actor_id AS "actor_id: UserId", actor, action, subject, message,
                  CASE WHEN actor_id IS NULL OR actor_id = $1 THEN source_address END AS source_address, request_id
           FROM events WHERE actor_id = $1 OR subject_id = $1 ORDER BY time DESC, id DESC LIMIT $2 OFFSET $3"#,
        user as _,
        window.limit(),
        window.offset()
    )
    .fetch_all(pool)
    .await?;
    let total = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM events WHERE actor_id = $1 OR subject_id = $1"#,
        user as _
    )
    .fetch_one(pool)
    .await?;
    Ok(window.page(rows, total))
}
