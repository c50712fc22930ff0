//! The agent with containers on the other engine, which a node may have instead of Docker.

use crate::{
    agent::{Agent, guest_program},
    world::{World, until},
};
use std::fs;
use zectre_common::{
    spec::{ProcessType, RestartPolicy, Volume},
    state::{Reason, TaskState},
    wire::agent::TaskOrder,
};
use zectre_testkit::{PodmanEngine, wait_until};

const IMAGE: &str = "localhost/zectre-guest:1";

fn container(world: &World, mode: &str) -> TaskOrder {
    let mut order = world.guest(mode);
    order.process_type = ProcessType::Docker;
    order.artifact = None;
    order.image = Some(IMAGE.into());
    order.command = Some(vec!["/program".into()]);
    order
}

/// Podman's network is its own in tests, so the agent lives there too, and orders come by heartbeat.
#[tokio::test(flavor = "multi_thread")]
async fn containers_of_podman_go_the_way_of_all_tasks() {
    let podman = PodmanEngine::start().await;
    podman.import_image(IMAGE, &guest_program());
    let world = World::behind(podman.listen());
    let volume = tempfile::tempdir().expect("a directory");
    let path = volume.path().canonicalize().expect("there").display().to_string();
    let socket = podman.socket().display().to_string();
    let paths = format!("[{path:?}]");
    let settings = [
        ("ZECTRE__AGENT__CONTAINER_ENABLED", "true"),
        ("ZECTRE__AGENT__CONTAINER_SOCKET", &*socket),
        ("ZECTRE__AGENT__ALLOWED_VOLUME_PATHS", &*paths),
    ];
    let agent = Agent::start_within(&world, &podman.network(), &settings);
    assert!(world.node().await.1.container_enabled);

    let order = container(&world, "serve");
    let port = order.port;
    let serves = world.want(order);
    let report = world.reported(serves, TaskState::Running).await;
    assert_eq!(report.port, Some(port));
    let answer = wait_until(crate::world::deadline(), "it answers", async || {
        podman.get(port).await
    })
    .await;
    assert!(answer.ends_with(&serves.to_string()), "{answer}");
    world.logged(serves, "serving").await;
    // The next agent takes it up.
    agent.kill();
    let _agent = Agent::start_within(&world, &podman.network(), &settings);
    until("the next agent", async || world.registrations() == 2).await;
    let digest = world.fresh_digest().await;
    assert_eq!((digest[0].task_id, digest[0].state), (serves, TaskState::Running));
    world.want_stopped(serves);
    world.reported(serves, TaskState::Stopped).await;
    let said = world.lines(serves);
    assert_eq!(said.iter().filter(|line| line.message == "serving").count(), 1);

    let mut order = container(&world, "exit");
    order.env.insert("CODE".into(), "4".into());
    order.restart = RestartPolicy::Never;
    let exits = world.want(order);
    let report = world.failed(exits, Reason::Exited).await;
    assert_eq!(report.exit_code, Some(4));

    let mut order = container(&world, "keep");
    order.env.insert("FILE".into(), "/data/file".into());
    order.restart = RestartPolicy::Never;
    order.volumes = vec![Volume {
        host_path: path.clone(),
        container_path: "/data".into(),
    }];
    let keeps = world.want(order);
    world.reported(keeps, TaskState::Stopped).await;
    assert_eq!(fs::read(volume.path().join("file")).expect("kept"), b"kept");
}
