//! All SQL of the proxy: it reads the routing table and writes its own rows (its lease, its activity).

pub mod acme;
pub mod activity;
pub mod certificates;
pub mod copies;
pub mod feed;
pub mod goodbye;
pub mod history;
pub mod leader;
pub mod lease;
pub mod routes;
pub mod snapshot;
pub mod succession;

use sqlx::PgPool;
use std::time::Duration;

/// No statement of the proxy may take longer: what can't be read now is read with the next change.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);

/// The epoch of the database now.
pub async fn epoch(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let epoch = sqlx::query_scalar!("SELECT epoch FROM routing_epoch")
        .fetch_one(pool)
        .await?;
    Ok(epoch as u64)
}
