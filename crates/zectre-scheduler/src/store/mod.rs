//! The scheduler's SQL. Reads are by one file a purpose; everything that the leader writes goes through
//! [`save`], in one transaction that an older leader can't make.

mod election;
mod hints;
mod load;
mod nodes;
mod orders;
mod save;

pub use election::{Election, Leader};
pub use hints::ProxyLease;
pub use orders::{OrderContext, SealedVariable, StoredArtifact};
pub use save::{Batch, CommitError};

use sqlx::PgPool;

/// The platform database, as the scheduler uses it.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
}

impl Store {
    /// On this pool.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// For LISTEN, and for the health check.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}
