//! One leader at a time: an advisory lock on a connection of its own. Its epoch is higher than that of every
//! leader before it, and goes with everything it says and writes.

use super::Store;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

/// Names the lock; any number that nothing else in this database uses.
const LOCK: i64 = 0x7a65_6374_7265_0001;

/// The lock, held for as long as this lives.
#[derive(Debug)]
pub struct Election {
    connection: PgConnection,
    /// The epoch that the winner leads with.
    pub epoch: u64,
}

/// Who leads, as the database knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its epoch.
    pub epoch: u64,
    /// Where it listens.
    pub address: Option<String>,
}

impl Election {
    /// Waits until nobody else holds the lock, then takes office.
    pub async fn win(options: &PgConnectOptions, address: &str) -> Result<Self, sqlx::Error> {
        let mut connection: PgConnection = sqlx::ConnectOptions::connect(options).await?;
        // A candidate that is gone must not win: the server looks for it while it waits.
        sqlx::query!("SET client_connection_check_interval = '1s'")
            .execute(&mut connection)
            .await?;
        sqlx::query!("SELECT pg_advisory_lock($1)", LOCK)
            .fetch_one(&mut connection)
            .await?;
        let epoch = sqlx::query_scalar!(
            "UPDATE scheduler_leader SET epoch = epoch + 1, address = $1, elected_at = now() RETURNING epoch",
            address
        )
        .fetch_one(&mut connection)
        .await?;
        Ok(Self {
            connection,
            epoch: epoch as u64,
        })
    }

    /// Whether the lock is still held: it goes with its connection.
    pub async fn check(&mut self) -> Result<(), sqlx::Error> {
        self.connection.ping().await
    }
}

impl Store {
    /// Who was elected last.
    pub async fn leader(&self) -> Result<Leader, sqlx::Error> {
        let row = sqlx::query!("SELECT epoch, address FROM scheduler_leader")
            .fetch_one(&self.pool)
            .await?;
        Ok(Leader {
            epoch: row.epoch as u64,
            address: row.address,
        })
    }
}
