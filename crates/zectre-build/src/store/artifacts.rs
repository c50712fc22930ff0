//! The row of the program that a build makes; the registry makes it `ready`.

use crate::error::Error;
use sqlx::PgPool;
use zectre_common::id::{ApplicationId, ArtifactId};

/// An upload of a program ends before this, however often it is tried.
const UPLOAD_SECS_MAX: f64 = 600.0;

/// What an organization stores, and what it may.
#[derive(Debug, PartialEq, Eq)]
pub struct Full {
    /// The bytes.
    pub used: u64,
    /// Their bound.
    pub allowed: u64,
}

/// Announces a binary of `size` bytes in the application's organization, unless that has no room for them in its quota; its own
/// one, or the cluster's `bytes_max`. 0 is no limit.
pub async fn announce(
    pool: &PgPool,
    application: ApplicationId,
    id: ArtifactId,
    size: u64,
    bytes_max: u64,
) -> Result<Result<(), Full>, Error> {
    let mut transaction = pool.begin().await?;
    // Held: of two that would fit one by one, one does.
    let owner = sqlx::query!(
        r#"SELECT o.id, artifact_bytes_allowed(o.id, $2) AS "allowed!"
           FROM applications a JOIN namespaces n ON n.id = a.namespace_id JOIN organizations o ON o.id = n.organization_id
           WHERE a.id = $1 FOR NO KEY UPDATE OF o"#,
        application as _,
        i64::try_from(bytes_max).unwrap_or(i64::MAX)
    );
    let Some(owner) = owner.fetch_optional(&mut *transaction).await? else {
        // The application is gone: the registry won't know the artifact, which ends the build.
        return Ok(Ok(()));
    };
    let used = sqlx::query_scalar!(r#"SELECT artifact_bytes_used($1) AS "used!""#, owner.id as _);
    let used = used.fetch_one(&mut *transaction).await?.unsigned_abs();
    let allowed = owner.allowed.unsigned_abs();
    if allowed > 0 && used.saturating_add(size) > allowed {
        return Ok(Err(Full { used, allowed }));
    }
    sqlx::query!(
        "INSERT INTO artifacts (id, organization_id, name, kind, content_type, size_bytes, upload_id, upload_until)
         SELECT $1, $3, name, 'binary', 'application/octet-stream', $4, $1, now() + make_interval(secs => $5)
         FROM applications WHERE id = $2",
        id as _,
        application as _,
        owner.id as _,
        i64::try_from(size).unwrap_or(i64::MAX),
        UPLOAD_SECS_MAX
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Ok(()))
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
