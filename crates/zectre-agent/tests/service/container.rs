//! The agent with containers, on a real Docker engine that the test starts itself.

use crate::{
    agent::{Agent, ask, guest_program},
    world::{World, until},
};
use zectre_common::{
    spec::{ProcessType, RestartPolicy},
    state::{Reason, TaskState},
    wire::agent::TaskOrder,
};
use zectre_testkit::DockerEngine;

const IMAGE: &str = "zectre-guest:1";

fn container(world: &World, mode: &str) -> TaskOrder {
    let mut order = world.guest(mode);
    order.process_type = ProcessType::Docker;
    order.artifact = None;
    order.image = Some(IMAGE.into());
    order.command = Some(vec!["/program".into()]);
    order
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_go_the_way_of_all_tasks() {
    let docker = DockerEngine::start().await;
    docker.import_image(IMAGE, &guest_program()).await;
    let world = World::new().await;
    let socket = docker.socket().display().to_string();
    let settings = [
        ("ZECTRE__AGENT__CONTAINER_ENABLED", "true"),
        ("ZECTRE__AGENT__CONTAINER_SOCKET", &*socket),
    ];
    let agent = Agent::start_with(&world, &settings);
    assert!(world.node().await.1.container_enabled);

    // Served, logged, and adopted by the next agent.
    let order = container(&world, "late");
    let port = order.port;
    let serves = world.start(order).await;
    let report = world.reported(serves, TaskState::Running).await;
    assert_eq!(report.port, Some(port));
    // Open before anybody listens behind it: the engine's own forwarder must not count.
    assert!(
        report.phases.ready_us.is_some_and(|us| us >= 250_000),
        "{report:?}"
    );
    assert_eq!(ask(port, "/").await, Some(serves.to_string()));
    world.logged(serves, "serving").await;
    agent.kill();
    let _agent = Agent::start_with(&world, &settings);
    until("the next agent", async || world.registrations() == 2).await;
    let digest = world.fresh_digest().await;
    assert_eq!((digest[0].task_id, digest[0].state), (serves, TaskState::Running));
    world.stop(serves, 200).await;
    world.reported(serves, TaskState::Stopped).await;
    assert_eq!(ask(port, "/").await, None);
    assert_eq!(
        world
            .lines(serves)
            .iter()
            .filter(|line| line.message == "serving")
            .count(),
        1
    );

    let mut order = container(&world, "exit");
    order.env.insert("CODE".into(), "4".into());
    order.restart = RestartPolicy::Never;
    let exits = world.start(order).await;
    let report = world.reported(exits, TaskState::Failed).await;
    assert_eq!((report.reason, report.exit_code), (Some(Reason::Exited), Some(4)));
    assert!(
        report.log_tail.iter().any(|line| line.message == "with code 4"),
        "{report:?}"
    );

    let mut order = container(&world, "serve");
    order.image = Some("localhost:1/no/such:image".into());
    let missing = world.start(order).await;
    assert_eq!(
        world.reported(missing, TaskState::Failed).await.reason,
        Some(Reason::ImageNotFound)
    );

    let order = container(&world, "hog");
    let hog = world.start(order).await;
    assert_eq!(
        world.reported(hog, TaskState::Failed).await.reason,
        Some(Reason::OomKilled)
    );
    let left = docker
        .docker()
        .args(["ps", "-aq"])
        .output()
        .await
        .expect("docker is installed");
    assert!(left.stdout.is_empty(), "no container is left");
}
