//! A migrated database for one test, copied from one that is migrated, and dropped with the test.

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

impl TestDatabase {
    /// A fresh database with all migrations applied.
    pub async fn create() -> Self {
        let schema = schema();
        // Nobody's server crashes in a way that files copied past its log could not stand: they lie in memory with it.
        Self::make(&format!("TEMPLATE {schema} STRATEGY file_copy"), async |server| {
            ensure_schema(server, &schema).await;
        })
        .await
    }

    /// A fresh database with nothing in it, for a service that has a schema of its own.
    pub async fn empty() -> Self {
        Self::make("", async |_| {}).await
    }

    /// As nearly always all is there that it is made of, it is asked for what is missing only when it can't be made: each
    /// connection to PostgreSQL is a process that has to get to know the database first.
    async fn make(how: &str, prepare: impl AsyncFnOnce(&SharedServer)) -> Self {
        let name = format!("test_{}", Uuid::now_v7().simple());
        let statement = format!("CREATE DATABASE {name} {how}");
        let server = SharedServer::here();
        if execute(&server, &statement).await.is_err() {
            tokio::task::spawn_blocking(SharedServer::get)
                .await
                .expect("the server starts");
            prepare(&server).await;
            execute(&server, &statement).await.expect("the server is ours");
        }
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

/// Named after its migrations, so that there is one of this version or none.
fn schema() -> String {
    format!("schema_{:016x}", db::schema_hash())
}

/// Makes the database that the others are copied from. Nobody is connected to it once it bears its name.
async fn ensure_schema(server: &SharedServer, schema: &str) {
    let _lock = server.lock();
    let mut admin = connect(server).await.expect("the server runs");
    let known: Vec<String> =
        sqlx::query_scalar("SELECT datname::text FROM pg_database WHERE datname LIKE 'schema%'")
            .fetch_all(&mut admin)
            .await
            .expect("the catalog can be read");
    if known.iter().any(|known| known == schema) {
        return;
    }
    // Made by another version of the migrations, or half made.
    for other in known {
        run(&mut admin, &format!("DROP DATABASE {other} WITH (FORCE)")).await;
    }
    run(&mut admin, "CREATE DATABASE schema").await;
    let pool = db::connect(&SecretString::from(server.url("schema")), "test", 1)
        .await
        .expect("it was just made");
    db::migrate(&pool)
        .await
        .expect("the migrations apply to an empty database");
    pool.close().await;
    run(&mut admin, &format!("ALTER DATABASE schema RENAME TO {schema}")).await;
}

async fn run(admin: &mut PgConnection, statement: &str) {
    sqlx::query(AssertSqlSafe(statement.to_owned()))
        .execute(admin)
        .await
        .expect("the server is ours");
}

async fn connect(server: &SharedServer) -> Result<PgConnection, sqlx::Error> {
    PgConnection::connect(&server.url("postgres")).await
}

async fn execute(server: &SharedServer, statement: &str) -> Result<(), sqlx::Error> {
    let mut admin = connect(server).await?;
    let made = sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut admin);
    made.await.map(drop)
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let name = self.name.clone();
        // The test's own runtime may be gone already.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime
                .block_on(execute(
                    &SharedServer::here(),
                    &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
                ))
                .map_err(std::io::Error::other)
        });
        // A database left behind costs disk until the server is stopped, nothing else.
        let _ = dropped.join();
    }
}
