//! A port that something else holds is left alone for a while, and the tasks that met it go elsewhere.

use super::{
    agents::report,
    world::{Program, World, facts},
};
use crate::{Event, Node};
use proptest::prelude::*;
use zectre_common::{
    id::{DeploymentId, NodeId},
    state::{DeploymentStatus, Reason, TaskState},
};

/// Something holds these ports of these nodes: every start with one of them fails. Returns how many did.
fn refuse_starts(world: &mut World, id: DeploymentId, is_held: impl Fn(NodeId, u16) -> bool) -> usize {
    let mut refused = 0;
    loop {
        let starting = world
            .cluster
            .tasks_of(id)
            .find(|task| {
                task.state == TaskState::Starting
                    && is_held(task.node_id.expect("placed"), task.port.expect("placed"))
            })
            .cloned();
        let Some(task) = starting else { return refused };
        refused += 1;
        assert!(refused < 100, "it is not tried without end");
        world.undelivered.retain(|command| {
            !matches!(command, crate::Command::Start { task: started, .. } if started.id == task.id)
        });
        let mut failed = report(task.id, task.generation, TaskState::Failed);
        failed.reason = Some(Reason::PortTaken);
        let node_id = task.node_id.expect("placed");
        world.feed(Event::TaskReports {
            node_id,
            tasks: vec![failed],
        });
    }
}

#[test]
fn the_next_start_has_another_port_and_the_rollout_does_not_suffer() {
    for restart in ["always", "never"] {
        let mut world = World::new(1, 1);
        let id = world.deploy(&format!(r#"{{"restart":"{restart}"}}"#), Program::Exits(0));
        if restart == "always" {
            world.programs.insert(id, Program::Serves);
        }
        let refused = refuse_starts(&mut world, id, |_, port| port < 20_004);
        assert!((1..=4).contains(&refused), "{refused}");
        let task = world.cluster.tasks_of(id).next().expect("one more").clone();
        assert_eq!(task.not_before, None, "at once");
        let resting = &world.cluster.nodes().next().expect("one").resting_ports;
        assert!(!resting.contains_key(&task.port.expect("placed")));
        world.calm(5);
        assert_eq!(world.status(id), DeploymentStatus::Succeeded, "{restart}");
    }
}

#[test]
fn a_node_whose_ports_are_held_is_the_last_choice_and_forgiven_later() {
    let mut world = World::new(2, 1);
    let bad = world.agents[0].id;
    let id = world.deploy(r#"{"replicas":2}"#, Program::Serves);
    let refused = refuse_starts(&mut world, id, |node, _| node == bad);
    assert!(refused <= 10, "it moves away: {refused}");
    world.calm(5);
    assert_eq!(
        (world.status(id), world.ready(id)),
        (DeploymentStatus::Succeeded, 2)
    );
    assert!(world.cluster.tasks_of(id).all(|task| task.node_id != Some(bad)));
    let other = world.deploy(r#"{"replicas":1}"#, Program::Serves);
    assert!(
        world
            .cluster
            .tasks_of(other)
            .all(|task| task.node_id != Some(bad))
    );
    world.calm(130);
    assert!(world.cluster.node(bad).expect("known").resting_ports.is_empty());
    let third = world.deploy(r#"{"replicas":2}"#, Program::Serves);
    world.calm(5);
    assert!(
        world
            .cluster
            .tasks_of(third)
            .any(|task| task.node_id == Some(bad))
    );
}

#[test]
fn when_every_port_of_the_only_node_is_held_the_pauses_grow() {
    let mut world = World::new(1, 1);
    let id = world.deploy("{}", Program::Serves);
    let mut refused = 0;
    for _ in 0..240 {
        refused += refuse_starts(&mut world, id, |_, _| true);
        world.calm_step(500);
    }
    assert!((8..=60).contains(&refused), "in two minutes: {refused}");
    let resting = world.cluster.nodes().next().expect("one").resting_ports.len();
    assert!(resting <= 64);
    world.calm(60);
    assert_eq!(world.ready(id), 1, "it is let go");
}

proptest! {
    /// The next port is the first after the cursor that is free and doesn't rest, and there is one while there is room.
    #[test]
    fn a_free_port_is_found_wherever_it_is(
        held in prop::collection::btree_set(20_000u16..20_064, 0..64),
        resting in prop::collection::btree_set(20_000u16..20_064, 0..64),
        cursor in 19_990u16..20_070,
    ) {
        let id = NodeId::from_uuid(uuid::Uuid::from_u128(1));
        let now = zectre_common::time::Time::from_unix_ms(0);
        let mut node = Node::new(id, facts("n", 1_000, 1_000, 64), now);
        node.ports.clone_from(&held);
        for port in resting.difference(&held) {
            node.rest_port(*port, now);
        }
        node.port_cursor = cursor;
        let start = cursor.clamp(20_000, 20_063);
        let is_free = |port: &u16| !held.contains(port) && !resting.contains(port);
        let expected = (start..=20_063).chain(20_000..start).find(is_free);
        prop_assert_eq!(node.free_port(), expected);
        prop_assert_eq!(node.free_ports() > 0, expected.is_some());
        prop_assert_eq!(node.wake_ports(now.plus(std::time::Duration::from_secs(120))), None);
    }
}
