//! Certificates that lie in PostgreSQL, while PostgreSQL is away.

use crate::{
    secure::Pair,
    world::{Running, SOON, World},
};
use secrecy::ExposeSecret;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use uuid::Uuid;
use zectre_service::{
    ring::{KeyFile, KeyRing},
    seal,
};
use zectre_testkit::wait_until;

/// A world whose proxies speak TLS and keep snapshots, and the file of its master keys.
async fn secure() -> (World, PathBuf) {
    let mut world = World::new().await;
    let master = world.directory.path().join("master.key");
    zectre_service::key::ensure_key_file(&master).expect("a key");
    world.configure(&format!(
        "[secrets]\nmaster_key_file = '{}'\n[proxy]\nsnapshot_path = '{}'\n[proxy.tls]\nenabled = true",
        master.display(),
        world.snapshot_path().display()
    ));
    (world, master)
}

/// As an order leaves it: one for `name`, which `key` seals.
async fn store(world: &World, key: &KeyRing, name: &str) {
    let (id, pair) = (Uuid::now_v7(), Pair::new(&[name], 2050));
    let sealed = seal::seal(key, &seal::place::certificate(name, id), &pair.key);
    let insert = "INSERT INTO certificates (name, id, chain, sealed_key, not_before, not_after)
                  VALUES ($1, $2, $3, $4, now(), now() + interval '90 days')";
    let insert = sqlx::query(insert)
        .bind(name)
        .bind(id)
        .bind(pair.cert)
        .bind(sealed);
    insert.execute(&world.pool).await.expect("inserted");
}

/// What a rotation of the master key leaves: all keys are sealed with a new one, and the old one is forgotten.
async fn rotate(world: &World, master: &Path) {
    let old = KeyRing::load(master).expect("readable");
    let mut file = KeyFile::read(master).expect("readable");
    file.add();
    assert!(file.promote());
    file.write().expect("written");
    let new = KeyRing::load(master).expect("readable");
    let all = sqlx::query_as("SELECT name, id, sealed_key FROM certificates");
    let all: Vec<(String, Uuid, Vec<u8>)> = all.fetch_all(&world.pool).await.expect("readable");
    for (name, id, sealed) in all {
        let place = seal::place::certificate(&name, id);
        let key = seal::open(&old, &place, &sealed).expect("it opens");
        let update = sqlx::query("UPDATE certificates SET sealed_key = $2 WHERE id = $1").bind(id);
        let update = update.bind(seal::seal(&new, &place, key.expose_secret()));
        update.execute(&world.pool).await.expect("updated");
    }
    file.retire().expect("forgotten");
    file.write().expect("written");
    fs::remove_file(master.with_file_name("master.key.retired")).expect("it was kept beside");
}

/// The names of the copies, once there are so many of them and none of `but`.
async fn copies(directory: &Path, count: usize, but: &BTreeSet<String>) -> BTreeSet<String> {
    wait_until(SOON, "the copies are there", async || {
        let names = fs::read_dir(directory).ok()?;
        let names = names.map(|entry| entry.expect("readable").file_name().into_string().expect("text"));
        let names: BTreeSet<String> = names.collect();
        (names.len() == count && names.is_disjoint(but)).then_some(names)
    })
    .await
}

#[tokio::test]
async fn copies_of_certificates_serve_while_the_database_is_away() {
    let (world, master) = secure().await;
    let key = KeyRing::load(&master).expect("readable");
    for name in ["shop.test", "gone.test"] {
        store(&world, &key, name).await;
    }
    let proxy = world.start().await;
    let directory = world.directory.path().join("routes.json.certificates");
    let first = copies(&directory, 2, &BTreeSet::new()).await;
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for name in &first {
        assert_eq!(mode(&directory.join(name)), 0o600);
    }
    sqlx::query("DELETE FROM certificates WHERE name = 'gone.test'")
        .execute(&world.pool)
        .await
        .expect("deleted");
    rotate(&world, &master).await;
    copies(&directory, 1, &first).await;
    proxy.stop().await;

    let mut config = world.config();
    // Nobody listens there.
    config.database.url = "postgres://zectre@127.0.0.1:1/none".to_owned().into();
    let proxy = Running::start(&config).await;
    assert_eq!(proxy.shown("shop.test").await, "shop.test");
    assert_eq!(proxy.shown("gone.test").await, "zectre.localhost");
    proxy.stop().await;
}

/// A rotation needs no restart, in whatever order the file of keys comes to the machines.
#[tokio::test]
async fn a_certificate_that_a_key_unknown_here_sealed_is_served_once_the_key_is_here() {
    let (world, master) = secure().await;
    let before = fs::read(&master).expect("readable");
    let mut file = KeyFile::read(&master).expect("readable");
    file.add();
    assert!(file.promote());
    file.write().expect("written");
    let after = fs::read(&master).expect("readable");
    store(&world, &KeyRing::load(&master).expect("readable"), "shop.test").await;
    fs::write(&master, before).expect("written");
    let proxy = world.start().await;
    assert_eq!(proxy.shown("shop.test").await, "zectre.localhost");
    fs::write(&master, after).expect("written");
    wait_until(SOON, "it is served", async || {
        (proxy.shown("shop.test").await == "shop.test").then_some(())
    })
    .await;
    proxy.stop().await;
}
