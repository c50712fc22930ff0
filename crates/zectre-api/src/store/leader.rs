//! Where the scheduler that leads is reached.

use sqlx::PgPool;

/// The address that the newest leader gave; `None` when none was ever elected.
pub(crate) async fn address(pool: &PgPool) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!("SELECT address FROM scheduler_leader")
        .fetch_one(pool)
        .await
}
