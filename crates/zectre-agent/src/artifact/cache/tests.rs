mod property;

use super::*;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
};
use zectre_service::{
    key::to_hex,
    tasks::{Shutdown, Tasks},
};

fn background() -> Background {
    Background::new(Tasks::new(Shutdown::new()))
}

fn artifact(sha256: &str, kind: ArtifactKind) -> ArtifactRef {
    let id = zectre_common::id::ArtifactId::new();
    ArtifactRef {
        id,
        kind,
        sha256: sha256.into(),
        size: 1,
        url: String::new(),
    }
}

#[test]
fn a_hash_can_not_be_a_path() {
    let error = key(&artifact("../../etc", ArtifactKind::Binary)).expect_err("no hash");
    assert_eq!(error.reason, Reason::ArtifactCorrupt);
    assert!(key(&artifact(&"a".repeat(64), ArtifactKind::Bundle)).is_ok());
    assert!(key(&artifact(&"a".repeat(64), ArtifactKind::Source)).is_err());
}

#[test]
fn whoever_reads_a_log_does_not_learn_the_signed_url() {
    let mut signed = artifact("no hash", ArtifactKind::Binary);
    signed.url = "http://registry/artifacts/aa/shop?expires=1&signature=canary".into();
    let error = key(&signed).expect_err("no hash");
    let told = format!("{signed:?} {error:?}");
    assert!(told.contains("no hash") && !told.contains("canary"), "{told}");
}

#[tokio::test]
async fn what_is_held_stays_and_what_is_removed_is_gone_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["a-binary", "b-binary"] {
        fs::create_dir(dir.path().join(name)).expect("made");
        fs::write(dir.path().join(name).join(PROGRAM), [0; 100]).expect("written");
    }
    let (collector, _requests) = Collector::new();
    let cache = Cache::open(dir.path(), collector, reqwest::Client::new(), background()).expect("opened");
    let held = cache.lease("a-binary", ArtifactKind::Binary).expect("here");
    cache
        .remove(&["a-binary".into(), "b-binary".into(), "c".into()])
        .await;
    assert!(dir.path().join("a-binary").exists() && !dir.path().join("b-binary").exists());
    assert!(cache.lease("b-binary", ArtifactKind::Binary).is_none());
    drop(held);
    let items = cache.items();
    assert_eq!(items.len(), 1);
    assert_eq!((items[0].bytes, items[0].is_held), (100, false));
}

/// A registry that answers one request, and stops in the middle until it is told to go on.
async fn slow_registry(
    body: &'static [u8],
    half: Arc<Notify>,
    go_on: Arc<Notify>,
) -> (ArtifactRef, Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let told = Arc::new(Notify::new());
    let tell = told.clone();
    background().spawn("registry", async move {
        let (mut stream, _) = listener.accept().await.expect("somebody asks");
        let _ = stream.read(&mut [0; 4096]).await.expect("a request");
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream.write_all(&body[..1]).await.expect("sent");
        half.notify_one();
        go_on.notified().await;
        stream.write_all(&body[1..]).await.expect("sent");
        tell.notify_one();
    });
    let artifact = ArtifactRef {
        size: body.len() as u64,
        url,
        ..artifact(&to_hex(&Sha256::digest(body)), ArtifactKind::Binary)
    };
    (artifact, told)
}

#[tokio::test]
async fn a_fetch_goes_on_when_nobody_waits_for_it_any_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let (half, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (artifact, _told) = slow_registry(b"#!/bin/sh\n", half.clone(), go_on.clone()).await;
    let (collector, _requests) = Collector::new();
    let cache = Cache::open(dir.path(), collector, reqwest::Client::new(), background()).expect("opened");
    tokio::select! {
        biased;
        () = half.notified() => {}
        _ = cache.get(&artifact) => panic!("it can't have all of it"),
    }
    go_on.notify_one();
    // The registry answers no second request.
    let (one, two) = tokio::join!(cache.get(&artifact), cache.get(&artifact));
    let (one, two) = (one.expect("fetched"), two.expect("fetched"));
    assert!(one.program(None).expect("a program").path.is_file());
    assert_eq!(
        cache
            .index()
            .entries
            .values()
            .map(|entry| entry.leases)
            .sum::<u32>(),
        2
    );
    drop((one, two));
    assert!(cache.items().iter().all(|item| !item.is_held));
    assert!(cache.index().fetching.is_empty());
    let left = fs::read_dir(dir.path().join(INCOMING)).expect("there").count();
    assert_eq!(left, 0, "nothing is left of the way");
}

#[tokio::test]
async fn a_disk_without_room_for_the_last_bytes_is_full() {
    let go_on = Arc::new(Notify::new());
    go_on.notify_one();
    let (artifact, _told) = slow_registry(b"#!/bin/sh\n", Arc::default(), go_on).await;
    let error = fetch(&reqwest::Client::new(), &artifact, Path::new("/dev/full"))
        .await
        .expect_err("nothing can be written");
    assert!(error.disk_is_full, "{error:?}");
}

#[tokio::test]
async fn what_is_in_its_place_already_is_taken_and_a_cut_download_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let to = dir.path().join("key-binary");
    for _ in 0..2 {
        let incoming = Incoming(dir.path().join("incoming"));
        fs::write(&incoming.0, b"#!/bin/sh\n").expect("written");
        assert_eq!(settle(&incoming, &to, ArtifactKind::Binary).expect("stored"), 10);
    }
    let incoming = Incoming(dir.path().join("incoming"));
    fs::write(&incoming.0, b"half").expect("written");
    fs::create_dir(incoming.ready()).expect("made");
    drop(incoming);
    assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1);
}
