//! The platform database: the pool and the migrations.
//!
//! Every migration works while the previous version of the code still runs.

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    Connection as _, PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    str::FromStr,
    time::Duration,
};

/// The channels that services notify on; a notification is only a hint.
pub mod channel {
    /// The routing epoch was raised; the payload is the new epoch.
    pub const ROUTING: &str = "zectre_routing";
    /// A proxy acknowledged an epoch or reported activity.
    pub const PROXY: &str = "zectre_proxy";
    /// Log lines of a task or build were stored; the payload is its id.
    pub const LOGS: &str = "zectre_logs";
    /// Something was written into the activity feed.
    pub const EVENTS: &str = "zectre_events";
    /// A certificate was stored; the payload is its name.
    pub const CERTIFICATES: &str = "zectre_certificates";
    /// A build was queued, cancelled or finished; the payload is its id.
    pub const BUILDS: &str = "zectre_builds";
}

/// The database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The URL is not one.
    #[error("database.url is not a PostgreSQL URL: {0}")]
    Url(#[source] sqlx::Error),
    /// No connection within the deadline.
    #[error("PostgreSQL does not answer at database.url: {0}. Start it, or correct database.url")]
    Connect(#[source] sqlx::Error),
    /// The migrations failed.
    #[error("the database could not be brought to this version: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

/// How long it may take to begin to listen. A server that stands still in just that moment would hold a service, which looks by itself
/// until it listens, for as long as the system believes in the connection.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that served a moment ago is not asked whether it lives: that is a round trip before each statement. One whose server has
/// gone since then fails like one whose server goes right now, and the next is made anew.
const TRUSTED_FOR: Duration = Duration::from_millis(100);

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

/// Connection options from a URL, named after the service so that `pg_stat_activity` can be read.
pub fn options(url: &SecretString, service: &str) -> Result<PgConnectOptions, DbError> {
    let options = PgConnectOptions::from_str(url.expose_secret()).map_err(DbError::Url)?;
    // Statements are logged by the code that knows what they are for, not here.
    Ok(sqlx::ConnectOptions::disable_statement_logging(
        options.application_name(service),
    ))
}

/// A pool of at most `connections_max` connections; fails when the database doesn't answer in time.
pub async fn connect(url: &SecretString, service: &str, connections_max: u32) -> Result<PgPool, DbError> {
    pool(connections_max)
        .connect_with(options(url, service)?)
        .await
        .map_err(DbError::Connect)
}

/// The bounds of every pool, for one whose connections are special.
pub fn pool(connections_max: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(Duration::from_secs(5))
        .idle_timeout(Duration::from_secs(60))
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move { Ok(meta.idle_for < TRUSTED_FOR || connection.ping().await.is_ok()) })
        })
}

/// Listens on these channels. What is told while nobody listens is lost: read what they are about once this has returned.
///
/// # Errors
/// The database refuses, or has not answered within five seconds.
pub async fn listen(pool: &PgPool, channels: &[&str]) -> Result<PgListener, sqlx::Error> {
    let listening = async {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen_all(channels.iter().copied()).await?;
        Ok(listener)
    };
    tokio::time::timeout(LISTEN_TIMEOUT, listening)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}

/// Tells one version of the schema from another.
pub fn schema_hash() -> u64 {
    let mut hasher = DefaultHasher::new();
    for migration in MIGRATOR.iter() {
        migration.checksum.hash(&mut hasher);
    }
    hasher.finish()
}

/// Brings the database to this version; safe to run from several services at once (advisory lock).
pub async fn migrate(pool: &PgPool) -> Result<(), DbError> {
    Ok(MIGRATOR.run(pool).await?)
}
