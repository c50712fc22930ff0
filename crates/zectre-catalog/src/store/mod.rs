//! All SQL of the catalog.

pub mod clusters;
pub mod codes;
pub mod consents;
pub mod events;
pub mod invitations;
pub mod mappings;
pub mod members;
pub mod organizations;
pub mod purge;
pub mod sessions;
pub mod signing_keys;
pub mod users;

use crate::error::Error;
use sqlx::PgPool;
use zectre_common::{config::DatabaseConfig, db, time::Time};

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

/// A pool on the catalog's database, brought to this version.
pub async fn connect(config: &DatabaseConfig) -> Result<PgPool, Error> {
    let options = db::options(&config.url, crate::NAME).map_err(|error| match error {
        db::DbError::Url(source) | db::DbError::Connect(source) => Error::DatabaseUrl(source),
        db::DbError::Migrate(source) => Error::Migrate(source),
    })?;
    let pool = db::pool(config.connections_max)
        .connect_with(options)
        .await
        .map_err(Error::Connect)?;
    MIGRATOR.run(&pool).await?;
    Ok(pool)
}

/// Whether the database answers.
pub async fn ping(pool: &PgPool) -> Result<Time, Error> {
    Ok(sqlx::query_scalar!(r#"SELECT now() AS "now!""#)
        .fetch_one(pool)
        .await?)
}

/// Whether a statement failed because what it wrote is there already, by which constraint.
fn duplicate(error: &sqlx::Error) -> Option<&str> {
    let error = error.as_database_error()?;
    error.is_unique_violation().then(|| error.constraint()).flatten()
}
