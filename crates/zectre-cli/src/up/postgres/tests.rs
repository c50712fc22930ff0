//! Against the real programs.

use super::*;
use sqlx::PgConnection;

async fn connect(server: &Postgres) -> PgConnection {
    let options = zectre_common::db::options(server.url(), "test").expect("a URL");
    options.connect().await.expect("it runs")
}

fn data_dir(directory: &tempfile::TempDir) -> DataDir {
    // A temporary directory is closed to others; the server's user must be able to pass.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).expect("ours");
    DataDir::open(Some(&directory.path().join("data"))).expect("empty")
}

#[tokio::test]
async fn it_keeps_its_data_over_a_stop_and_a_kill() {
    let binaries = Binaries::find().expect("PostgreSQL is installed: apt-get install postgresql");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = data_dir(&directory);

    let server = Postgres::start(&binaries, &data).await.expect("starts");
    let mut connection = connect(&server).await;
    sqlx::query("CREATE TABLE kept (n int)")
        .execute(&mut connection)
        .await
        .expect("allowed");
    server.stop().await.expect("stops though a connection is open");

    let server = Postgres::start(&binaries, &data).await.expect("starts again");
    let left = server.process;
    let mut connection = connect(&server).await;
    sqlx::query("INSERT INTO kept VALUES (7)")
        .execute(&mut connection)
        .await
        .expect("the table was kept");
    // As after `kill -9` of this program: the server goes on, and nobody holds its handle.
    drop(server);
    assert!(left.is_alive());
    assert!(Postgres::stop_stale(&data).await.expect("it can be stopped"));
    assert!(!left.is_alive());
    assert!(!Postgres::stop_stale(&data).await.expect("nothing is left"));

    let mut server = Postgres::start(&binaries, &data)
        .await
        .expect("starts over the stale files");
    let mut connection = connect(&server).await;
    let kept: i32 = sqlx::query_scalar("SELECT n FROM kept")
        .fetch_one(&mut connection)
        .await
        .expect("kept");
    assert_eq!(kept, 7);
    server.process.signal(Signal::SIGKILL).expect("ours");
    assert!(server.ended().await.contains("signal: 9"));
}

#[tokio::test]
async fn a_long_path_gets_a_short_socket() {
    let binaries = Binaries::find().expect("PostgreSQL is installed: apt-get install postgresql");
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).expect("ours");
    let data = DataDir::open(Some(&directory.path().join("d".repeat(120)))).expect("empty");
    let server = Postgres::start(&binaries, &data).await.expect("starts");
    drop(connect(&server).await);
    let url = server.url().expose_secret().to_owned();
    server.stop().await.expect("stops");
    let (_, sockets) = url.split_once("host=").expect("a socket");
    assert!(!sockets.contains("ddd"), "{sockets}");
    fs::remove_dir_all(sockets).expect("ours");
}

#[tokio::test]
async fn a_closed_directory_is_named() {
    if !geteuid().is_root() {
        // An ordinary user runs the server itself: nothing can be closed to it that is open to us.
        return;
    }
    let binaries = Binaries::find().expect("PostgreSQL is installed: apt-get install postgresql");
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).expect("ours");
    let data = DataDir::open(Some(&directory.path().join("data"))).expect("empty");
    let error = Postgres::start(&binaries, &data)
        .await
        .expect_err("closed")
        .to_string();
    let closed = fs::canonicalize(directory.path()).expect("there");
    assert!(
        error.contains(&format!("chmod o+x {}", closed.display())),
        "{error}"
    );
}
