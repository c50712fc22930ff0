//! The end of a proxy, as PostgreSQL hears of it. What is left to be told comes first, and the row goes in any case: as long as it is
//! there, the scheduler stops no task without this proxy's word.

use crate::{
    store::{activity, history, lease},
    tables::Tables,
};
use sqlx::PgPool;
use std::time::Duration;
use tokio::{sync::Mutex, time::timeout};
use zectre_common::id::ProxyId;

/// For what is left to be told.
const WORDS_TIMEOUT: Duration = Duration::from_secs(3);

/// Tells PostgreSQL what it has not heard yet, and that the proxy `id` is gone. Nothing else may write that row any more.
pub async fn say(pool: &PgPool, tables: &Tables, past: &Mutex<history::History>, id: ProxyId) {
    let words = async {
        activity::flush(pool, tables, id).await?;
        history::finish(pool, past).await
    };
    if !matches!(timeout(WORDS_TIMEOUT, words).await, Ok(Ok(()))) {
        tracing::warn!("PostgreSQL did not hear what this proxy counted last");
    }
    if lease::release(pool, &[id]).await.is_err() {
        tracing::warn!("PostgreSQL did not hear that this proxy stops; its lease will run out");
    }
}
