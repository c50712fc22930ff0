//! The rows that name content. The API and the build worker announce them; the registry makes them ready.

use crate::{digest::Digest, error::Error};
use sqlx::PgPool;
use zectre_common::{id::ArtifactId, state::ArtifactState};

/// An artifact, as far as the registry cares.
#[derive(Debug, Clone)]
pub struct ArtifactRow {
    /// Its file name.
    pub name: String,
    /// Its media type.
    pub content_type: String,
    /// Its content, once uploaded.
    pub digest: Option<Digest>,
}

/// Reads one.
pub async fn get(pool: &PgPool, id: ArtifactId) -> Result<Option<ArtifactRow>, Error> {
    let row = sqlx::query!(
        r#"SELECT name, content_type, sha256, state AS "state: ArtifactState" FROM artifacts WHERE id = $1"#,
        id as _
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| {
        let digest = row.sha256.filter(|_| row.state == ArtifactState::Ready);
        ArtifactRow {
            name: row.name,
            content_type: row.content_type,
            digest: digest.and_then(|sha256| sha256.parse().ok()),
        }
    }))
}

/// Makes a pending artifact ready. False when it isn't pending (any more).
pub async fn make_ready(pool: &PgPool, id: ArtifactId, digest: &Digest, size: u64) -> Result<bool, Error> {
    let done = sqlx::query!(
        "UPDATE artifacts SET state = 'ready', sha256 = $2, size_bytes = $3 WHERE id = $1 AND state = 'pending'",
        id as _,
        digest.as_str(),
        size as i64
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Which of these contents some artifact refers to.
pub async fn referred(pool: &PgPool, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
    let names: Vec<String> = digests.iter().map(ToString::to_string).collect();
    let rows = sqlx::query_scalar!(
        r#"SELECT DISTINCT sha256 AS "sha256!" FROM artifacts WHERE sha256 = ANY($1)"#,
        &names
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Whether the database answers.
pub async fn ping(pool: &PgPool) -> Result<(), Error> {
    sqlx::query_scalar!(r#"SELECT 1 AS "one!""#)
        .fetch_one(pool)
        .await?;
    Ok(())
}
