//! Artifacts within their bounds, and on a disk that is full.

use crate::{
    agent::Agent,
    world::{World, deadline, until},
};
use std::{fs, path::Path, process::Command};
use zectre_common::{
    spec::RestartPolicy,
    state::{ArtifactKind, TaskState},
    wire::agent::{ArtifactRef, TaskOrder},
};
use zectre_testkit::wait_until;

/// A program of this size that ends at once.
fn program(world: &World, number: usize, bytes: usize) -> ArtifactRef {
    let mut script = format!("#!/bin/sh\nexit 0\n# {number}\n").into_bytes();
    script.resize(bytes, b'#');
    world.artifact(ArtifactKind::Binary, script)
}

fn once(world: &World, artifact: &ArtifactRef) -> TaskOrder {
    let mut order = world.order(artifact.clone());
    order.restart = RestartPolicy::Never;
    order
}

fn is_here(world: &World, artifact: &ArtifactRef) -> bool {
    let artifacts = world.data_dir.path().join("artifacts");
    artifacts.join(format!("{}-binary", artifact.sha256)).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_or_is_needed_stays_and_the_longest_unused_goes() {
    let world = World::new().await;
    let guest = world.guest("serve");
    let guest_artifact = guest.artifact.clone().expect("native");
    // Room for the guest and three of the others.
    let bound = (guest_artifact.size + 350_000).to_string();
    let settings = [
        ("ZECTRE__AGENT__ARTIFACT_CACHE_BYTES_MAX", &*bound),
        ("ZECTRE__AGENT__COLLECT_INTERVAL_MS", "100"),
    ];
    let _agent = Agent::start_with(&world, &settings);
    world.node().await;
    let runs = world.start(guest).await;
    world.reported(runs, TaskState::Running).await;
    let others: Vec<ArtifactRef> = (0..6).map(|number| program(&world, number, 100_000)).collect();
    world.seen().needed.insert(others[0].sha256.clone());
    for artifact in &others {
        let task = world.start(once(&world, artifact)).await;
        world.reported(task, TaskState::Stopped).await;
    }
    // The longest unused but for the first, which a rollback would need, and the guest, which runs.
    until("the second goes", async || !is_here(&world, &others[1])).await;
    until("it all fits", async || {
        let here = others.iter().filter(|artifact| is_here(&world, artifact)).count();
        here <= 3
    })
    .await;
    assert!(is_here(&world, &others[0]) && is_here(&world, &others[5]) && is_here(&world, &guest_artifact));
    assert_eq!(world.fetches(&others[0]), 1);
    // What went is fetched again when it is wanted again.
    let task = world.start(once(&world, &others[1])).await;
    world.reported(task, TaskState::Stopped).await;
    assert_eq!(world.fetches(&others[1]), 2);
    world.stop(runs, 1_000).await;
    world.reported(runs, TaskState::Stopped).await;
}

/// A small disk, for as long as it lives.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn mount(at: &'a Path, mib: u32) -> Self {
        let size = format!("size={mib}m,mode=0711");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(at)
            .status()
            .expect("mount is part of every Debian");
        assert!(mounted.success(), "mounting needs root");
        Self(at)
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_makes_room_for_the_next_start() {
    const PROGRAM_BYTES: usize = 6 << 20;
    let world = World::new().await;
    let path = world.data_dir.path().to_owned();
    let disk = Disk::mount(&path, 20);
    let settings = [
        ("ZECTRE__AGENT__DISK_FREE_BYTES_MIN", "0"),
        ("ZECTRE__AGENT__COLLECT_INTERVAL_MS", "3600000"),
    ];
    let agent = Agent::start_with(&world, &settings);
    world.node().await;
    let artifacts: Vec<ArtifactRef> = (0..5)
        .map(|number| program(&world, number, PROGRAM_BYTES))
        .collect();
    world.seen().needed.insert(artifacts[0].sha256.clone());
    for artifact in &artifacts {
        let task = world.start(once(&world, artifact)).await;
        world.reported(task, TaskState::Stopped).await;
    }
    assert!(is_here(&world, &artifacts[0]), "a rollback would need it");
    assert!(
        is_here(&world, &artifacts[4]) && !is_here(&world, &artifacts[1]),
        "the last one found room"
    );
    // Nearly full is enough, when the agent looks by itself.
    agent.kill();
    let watchful = [
        ("ZECTRE__AGENT__DISK_FREE_BYTES_MIN", "19000000"),
        ("ZECTRE__AGENT__COLLECT_INTERVAL_MS", "100"),
    ];
    let agent = Agent::start_with(&world, &watchful);
    wait_until(deadline(), "room is made", async || {
        (!is_here(&world, &artifacts[4])).then_some(())
    })
    .await;
    assert!(is_here(&world, &artifacts[0]));
    agent.kill();
    fs::read_dir(&path).expect("still mounted");
    drop(disk);
}
