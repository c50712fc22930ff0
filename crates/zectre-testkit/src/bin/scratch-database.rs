//! Prints the URL of a fresh, migrated database that stays: the platform's, or one with the migrations in the
//! directory that is named. With `stop`, ends the shared test server.

use secrecy::ExposeSecret;
use sqlx::migrate::Migrator;
use std::path::Path;
use zectre_testkit::{TestDatabase, stop_shared_server};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let argument = std::env::args().nth(1);
    let database = match argument.as_deref() {
        Some("stop") => return stop_shared_server(),
        Some(migrations) => migrated(Path::new(migrations)).await,
        None => TestDatabase::create().await,
    };
    println!("{}", database.url().expose_secret());
    // It outlives this program on purpose; it goes with the server.
    std::mem::forget(database);
}

async fn migrated(migrations: &Path) -> TestDatabase {
    let database = TestDatabase::empty().await;
    let pool = database.pool().await;
    let migrator = Migrator::new(migrations)
        .await
        .expect("the directory holds migrations");
    migrator
        .run(&pool)
        .await
        .expect("the migrations apply to an empty database");
    pool.close().await;
    database
}
