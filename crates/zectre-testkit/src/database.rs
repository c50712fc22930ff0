//! A migrated database for one test, made from a template in about 0.1 s and dropped with the test.

use crate::postgres::SharedServer;
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use uuid::Uuid;
use zectre_common::db;

/// A database of its own.
pub struct TestDatabase {
    server: SharedServer,
    name: String,
}

/// Names the template after this version of the schema, so that a changed migration makes a new one.
const TEMPLATE: &str = concat!("template_", env!("CARGO_PKG_VERSION_MAJOR"));

impl TestDatabase {
    /// A fresh database with all migrations applied.
    pub async fn create() -> Self {
        let server = tokio::task::spawn_blocking(SharedServer::get)
            .await
            .expect("the server starts");
        let name = format!("test_{}", Uuid::now_v7().simple());
        ensure_template(&server).await;
        execute(&server, &format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}")).await;
        Self { server, name }
    }

    /// A fresh database with nothing in it, for a service that has a schema of its own.
    pub async fn empty() -> Self {
        let server = tokio::task::spawn_blocking(SharedServer::get)
            .await
            .expect("the server starts");
        let name = format!("test_{}", Uuid::now_v7().simple());
        execute(&server, &format!("CREATE DATABASE {name}")).await;
        Self { server, name }
    }

    /// For a service's configuration.
    pub fn url(&self) -> SecretString {
        SecretString::from(self.server.url(&self.name))
    }

    /// A small pool on it.
    pub async fn pool(&self) -> PgPool {
        db::connect(&self.url(), "test", 5)
            .await
            .expect("the database was just made")
    }
}

/// The template is brought to this version of the schema by the migrations themselves.
async fn ensure_template(server: &SharedServer) {
    let _lock = server.lock();
    let mut admin = connect(server, "postgres").await;
    let known: Option<i32> = sqlx::query_scalar("SELECT 1 FROM pg_database WHERE datname = $1")
        .bind(TEMPLATE)
        .fetch_optional(&mut admin)
        .await
        .expect("the catalog can be read");
    if known.is_some() && migrate(server).await.is_ok() {
        return;
    }
    // Made by another version of the migrations: start anew.
    for statement in [
        format!("DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)"),
        format!("CREATE DATABASE {TEMPLATE}"),
    ] {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut admin)
            .await
            .expect("the server is ours");
    }
    migrate(server)
        .await
        .expect("the migrations apply to an empty database");
}

/// A template can only be copied while nobody is connected to it: the pool is closed before this returns.
async fn migrate(server: &SharedServer) -> Result<(), db::DbError> {
    let pool = db::connect(&SecretString::from(server.url(TEMPLATE)), "test", 1).await?;
    let result = db::migrate(&pool).await;
    pool.close().await;
    result
}

async fn connect(server: &SharedServer, database: &str) -> PgConnection {
    PgConnection::connect(&server.url(database))
        .await
        .expect("the server runs")
}

/// Copying and dropping wait for one another and for the template's last connection to be gone.
async fn execute(server: &SharedServer, statement: &str) {
    let _lock = server.lock();
    let mut admin = connect(server, "postgres").await;
    sqlx::query(AssertSqlSafe(statement.to_owned()))
        .execute(&mut admin)
        .await
        .expect("the server is ours");
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (url, name) = (self.server.url("postgres"), self.name.clone());
        // The test's own runtime may be gone already.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let mut admin = PgConnection::connect(&url).await.map_err(std::io::Error::other)?;
                let statement = AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
                sqlx::query(statement)
                    .execute(&mut admin)
                    .await
                    .map(drop)
                    .map_err(std::io::Error::other)
            })
        });
        // A database left behind costs disk until the server is stopped, nothing else.
        let _ = dropped.join();
    }
}
