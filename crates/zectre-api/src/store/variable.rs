//! Variables of an application, sealed.

use crate::error::Error;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;
use zectre_common::{id::ApplicationId, time::Time};

/// As stored: the value is sealed.
pub(crate) struct Row {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
    pub(crate) environment: Option<String>,
    pub(crate) secret: bool,
    pub(crate) updated_at: Time,
}

/// All of an application's, or those of one environment and of every environment.
pub(crate) async fn list(
    pool: &PgPool,
    app: ApplicationId,
    environment: Option<&str>,
) -> Result<Vec<Row>, Error> {
    Ok(sqlx::query_as!(
        Row,
        "SELECT key, value, environment, secret, updated_at FROM env_vars
         WHERE application_id = $1 AND ($2::text IS NULL OR environment IS NULL OR environment = $2)
         ORDER BY key, environment NULLS FIRST",
        app as _,
        environment
    )
    .fetch_all(pool)
    .await?)
}

/// What an application has.
pub(crate) struct Total {
    /// How many.
    pub(crate) count: i64,
    /// Bytes of all names and sealed values.
    pub(crate) bytes: i64,
}

/// What an application has, over all its environments.
pub(crate) async fn total(connection: &mut PgConnection, app: ApplicationId) -> Result<Total, Error> {
    let query = sqlx::query_as!(
        Total,
        r#"SELECT count(*) AS "count!", coalesce(sum(octet_length(key) + octet_length(value)), 0) AS "bytes!"
           FROM env_vars WHERE application_id = $1"#,
        app as _
    );
    Ok(query.fetch_one(connection).await?)
}

/// Sets one; when it was set.
pub(crate) async fn set(
    connection: &mut PgConnection,
    app: ApplicationId,
    environment: Option<&str>,
    key: &str,
    sealed: &[u8],
    secret: bool,
) -> Result<Time, Error> {
    let query = sqlx::query_scalar!(
        "INSERT INTO env_vars (id, application_id, environment, key, value, secret) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (application_id, environment, key)
         DO UPDATE SET value = EXCLUDED.value, secret = EXCLUDED.secret, updated_at = now()
         RETURNING updated_at",
        Uuid::now_v7(),
        app as _,
        environment,
        key,
        sealed,
        secret
    );
    Ok(query.fetch_one(connection).await?)
}

/// Removes one; false when there is no such variable.
pub(crate) async fn delete(
    connection: &mut PgConnection,
    app: ApplicationId,
    environment: Option<&str>,
    key: &str,
) -> Result<bool, Error> {
    let deleted = sqlx::query!(
        "DELETE FROM env_vars WHERE application_id = $1 AND environment IS NOT DISTINCT FROM $2 AND key = $3",
        app as _,
        environment,
        key
    )
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected() > 0)
}
