//! Uploads under way: each pending artifact has at most one, which says again and again that it goes on.

use crate::error::Error;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;
use zectre_common::id::ArtifactId;

/// Gives the artifact to an upload, with the bytes that it reserves, for `secs`; false while another one has it, or when
/// its bytes are there.
pub(crate) async fn begin(
    connection: &mut PgConnection,
    artifact: ArtifactId,
    upload: Uuid,
    reserves: Option<u64>,
    secs: u32,
) -> Result<bool, Error> {
    let begun = sqlx::query!(
        "UPDATE artifacts SET upload_id = $2, size_bytes = $3, upload_until = now() + make_interval(secs => $4)
         WHERE id = $1 AND state = 'pending' AND (upload_until IS NULL OR upload_until <= now())",
        artifact as _,
        upload,
        reserves.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        f64::from(secs)
    );
    Ok(begun.execute(connection).await?.rows_affected() > 0)
}

/// Keeps the artifact for another `secs`.
pub(crate) async fn go_on(pool: &PgPool, artifact: ArtifactId, upload: Uuid, secs: u32) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE artifacts SET upload_until = now() + make_interval(secs => $3)
         WHERE id = $1 AND upload_id = $2 AND state = 'pending'",
        artifact as _,
        upload,
        f64::from(secs)
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Gives the artifact back, and what was reserved for it: the upload has failed.
pub(crate) async fn give_back(pool: &PgPool, artifact: ArtifactId, upload: Uuid) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE artifacts SET upload_id = NULL, upload_until = NULL, size_bytes = NULL
         WHERE id = $1 AND upload_id = $2 AND state = 'pending'",
        artifact as _,
        upload
    )
    .execute(pool)
    .await?;
    Ok(())
}
