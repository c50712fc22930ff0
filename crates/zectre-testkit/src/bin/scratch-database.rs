//! Prints the URL of a fresh, migrated database that stays; with `stop`, ends the shared test server.

use secrecy::ExposeSecret;
use zectre_testkit::{TestDatabase, stop_shared_server};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if std::env::args().nth(1).as_deref() == Some("stop") {
        return stop_shared_server();
    }
    let database = TestDatabase::create().await;
    println!("{}", database.url().expose_secret());
    // It outlives this program on purpose; it goes with the server.
    std::mem::forget(database);
}
