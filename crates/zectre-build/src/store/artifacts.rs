//! The row of the program that a build makes; the registry makes it `ready`.

use crate::error::Error;
use sqlx::PgPool;
use zectre_common::id::{ApplicationId, ArtifactId};

/// Announces a binary in the application's organization.
pub async fn announce(pool: &PgPool, application: ApplicationId, id: ArtifactId) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO artifacts (id, organization_id, name, kind, content_type)
         SELECT $1, n.organization_id, a.name, 'binary', 'application/octet-stream'
         FROM applications a JOIN namespaces n ON n.id = a.namespace_id
         WHERE a.id = $2",
        id as _,
        application as _
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Takes back an announcement whose upload failed.
pub async fn withdraw(pool: &PgPool, id: ArtifactId) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM artifacts WHERE id = $1 AND state = 'pending'",
        id as _
    )
    .execute(pool)
    .await?;
    Ok(())
}
