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

async fn started(binaries: &Binaries, data: &DataDir) -> Result<Postgres, UpError> {
    let mut slot = None;
    Postgres::start(&mut slot, binaries, data).await?;
    Ok(slot.expect("it was started"))
}

#[tokio::test]
async fn what_was_broken_off_is_made_anew() {
    let binaries = Binaries::find().expect("PostgreSQL is installed: apt-get install postgresql");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = data_dir(&directory);
    // Dropped in the midst of initdb, which is killed with it.
    let mut slot = None;
    let half = data.path().join("postgres/data.new");
    tokio::select! {
        biased;
        () = zectre_testkit::wait_until(START_TIMEOUT, "initdb is at work", async || {
            half.join("PG_VERSION").is_file().then_some(())
        }) => {}
        _ = Postgres::start(&mut slot, &binaries, &data) => panic!("it was too quick to be broken off"),
    }
    assert!(slot.is_none());
    assert!(!place::data_in(&data).exists());
    let mut server = started(&binaries, &data).await.expect("starts");
    drop(connect(&server).await);
    assert!(!half.exists());
    server.stop().await.expect("stops");
}

#[tokio::test]
async fn a_start_that_is_broken_off_leaves_a_server_that_can_be_stopped() {
    let binaries = Binaries::find().expect("PostgreSQL is installed: apt-get install postgresql");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = data_dir(&directory);
    let owner = Owner::find().expect("a user");
    let place = Place::prepare(&data, owner.as_ref()).expect("prepared");
    initialise(&binaries, &place, owner.as_ref()).await.expect("made");
    let mut slot = None;
    // Polled once: the process is there, and nobody waited for it to be ready.
    {
        let start = Postgres::start(&mut slot, &binaries, &data);
        tokio::select! { biased; _ = start => {}, () = std::future::ready(()) => {} }
    }
    let mut server = slot.expect("it is known from its start on");
    server.stop().await.expect("stops");
    assert!(!server.process.is_alive());
}

#[tokio::test]
async fn it_keeps_its_data_over_a_stop_and_a_kill() {
    let binaries = Binaries::find().expect("PostgreSQL is installed: apt-get install postgresql");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = data_dir(&directory);

    let mut server = started(&binaries, &data).await.expect("starts");
    let mut connection = connect(&server).await;
    sqlx::query("CREATE TABLE kept (n int)")
        .execute(&mut connection)
        .await
        .expect("allowed");
    server.stop().await.expect("stops though a connection is open");

    let server = started(&binaries, &data).await.expect("starts again");
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

    let mut server = started(&binaries, &data)
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

/// After `kill -9` of everything: whoever inherits the dead may take its time to bury them.
#[tokio::test]
async fn one_that_was_killed_is_waited_for_until_it_is_gone() {
    let binaries = Binaries::find().expect("PostgreSQL is installed: apt-get install postgresql");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = data_dir(&directory);
    let mut server = started(&binaries, &data).await.expect("starts");
    server.stop().await.expect("stops");
    let mut command = std::process::Command::new("true");
    if let Some(owner) = Owner::find().expect("known") {
        std::os::unix::process::CommandExt::uid(&mut command, owner.uid.as_raw());
    }
    let mut dead = command.spawn().expect("every system has it");
    let pid_file = place::data_in(&data).join("postmaster.pid");
    fs::write(&pid_file, format!("{}\n", dead.id())).expect("ours");
    let refused = started(&binaries, &data)
        .await
        .expect_err("it seems to run")
        .to_string();
    assert!(refused.contains("postmaster.pid"), "{refused}");

    let burial = std::thread::spawn(move || {
        std::thread::park_timeout(Duration::from_millis(500));
        dead.wait().expect("ours")
    });
    let mut slot = None;
    let result = Postgres::start_over_remains(&mut slot, &binaries, &data).await;
    burial.join().expect("no panic");
    result.expect("it is gone");
    slot.expect("just started").stop().await.expect("stops");
}

#[tokio::test]
async fn a_long_path_gets_a_short_socket() {
    let binaries = Binaries::find().expect("PostgreSQL is installed: apt-get install postgresql");
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).expect("ours");
    let data = DataDir::open(Some(&directory.path().join("x".repeat(120)))).expect("empty");
    let mut server = started(&binaries, &data).await.expect("starts");
    drop(connect(&server).await);
    let url = server.url().expose_secret().to_owned();
    server.stop().await.expect("stops");
    let (_, sockets) = url.split_once("host=").expect("a socket");
    // Its own name has hexadecimal digits.
    assert!(!sockets.contains("xxx"), "{sockets}");
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
    let error = started(&binaries, &data).await.expect_err("closed").to_string();
    let closed = fs::canonicalize(directory.path()).expect("there");
    assert!(
        error.contains(&format!("chmod o+x {}", closed.display())),
        "{error}"
    );
}
