//! The scheduler's SQL. Reads are by one file a purpose; everything that the leader writes goes through
//! [`writer`], in one transaction that an older leader can't make.

mod batch;
mod columns;
mod election;
mod hints;
mod load;
mod needed;
mod nodes;
mod orders;
mod session;
mod usage;
mod writer;

pub use batch::{Batch, Wakes};
pub use election::{Election, Leader};
pub use hints::{OPERATIONS_MAX, ProxyLease};
pub use nodes::Admission;
pub use orders::{ContextReader, Contexts, OrderContext, SealedVariable, StoredArtifact};
pub use writer::{CommitError, Writer};

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
