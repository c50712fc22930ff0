//! One leader at a time: an advisory lock on a connection of its own. Its epoch is higher than that of every
//! leader before it, and goes with everything it says and writes.

use super::{Store, session};
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use std::time::Duration;

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

/// The server's answer to a wait that was cut short by `lock_timeout`.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// A server that answers neither yes nor no for so long is gone; its own waits are shorter.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

impl Election {
    /// Waits until nobody else holds the lock, then takes office. A server that is gone is found out within seconds.
    pub async fn win(options: &PgConnectOptions, address: &str) -> Result<Self, sqlx::Error> {
        let options = session::of_lock(options);
        let mut connection: PgConnection = answered(ConnectOptions::connect(&options)).await?;
        while !answered(lock(&mut connection)).await? {}
        let taking = sqlx::query_scalar!(
            "UPDATE scheduler_leader SET epoch = epoch + 1, address = $1, elected_at = now() RETURNING epoch",
            address
        );
        let epoch = answered(taking.fetch_one(&mut connection)).await?;
        Ok(Self {
            connection,
            epoch: epoch as u64,
        })
    }

    /// Whether the lock is still held: it goes with its connection. A holder that doesn't ask for three seconds has lost it.
    pub async fn check(&mut self) -> Result<(), sqlx::Error> {
        self.connection.ping().await
    }
}

/// False when another one still holds it after a while.
async fn lock(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let waited = sqlx::query!("SELECT pg_advisory_lock($1)", LOCK)
        .fetch_one(connection)
        .await;
    match waited {
        Ok(_) => Ok(true),
        Err(error)
            if error
                .as_database_error()
                .is_some_and(|e| e.code().as_deref() == Some(LOCK_NOT_AVAILABLE)) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn answered<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    tokio::time::timeout(ANSWER_TIMEOUT, answer)
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
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
