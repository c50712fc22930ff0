//! Placement against an exhaustive search.

use super::world::{facts, settings, spec};
use crate::core::{Cluster, Event, Snapshot, placement, step, tests::world::World};
use proptest::prelude::*;
use zectre_common::{id::NodeId, state::Reason, time::Time};

proptest! {
    /// The chosen node is the one that looking at every node finds: fitting, fewest siblings, least free memory.
    #[test]
    fn the_choice_is_that_of_an_exhaustive_search(
        nodes in prop::collection::vec((1u32..8, 1u64..8, 0u32..4), 0..6),
        needs in prop::collection::vec((1u32..5, 1u64..5), 1..12),
    ) {
        let mut world = World::new(0, 0);
        let now = world.now;
        for (index, (cpu, memory, slots)) in nodes.iter().enumerate() {
            let id = NodeId::from_uuid(uuid::Uuid::from_u128(1_000 + index as u128));
            world.feed(Event::NodeRegistered { id, facts: facts(&format!("n{index}"), cpu * 100, memory * 100, *slots) });
        }
        for (cpu, memory) in needs {
            let json = format!(r#"{{"replicas":1,"resources":{{"cpu":"{}m","memory":"{}Mi"}},"strategy":"blue_green"}}"#, cpu * 100, memory * 100);
            let wanted = spec(&json).resources;
            let before = world.cluster.clone();
            let id = world.deploy(&json, super::world::Program::Hangs);
            let deployment = world.cluster.deployment(id).expect("loaded").clone();
            let best = before.nodes().filter(|node| node.fits(wanted)).min_by_key(|node| (node.free_memory(), node.id));
            let chosen = world.cluster.tasks_of(id).next().and_then(|task| task.node_id);
            prop_assert_eq!(chosen, best.map(|node| node.id));
            if chosen.is_none() {
                let (reason, message) = placement::shortage(&before, &deployment);
                prop_assert!(matches!(reason, Reason::NoCapacity | Reason::NoEligibleNode));
                prop_assert!(!message.is_empty());
            }
            // The next deployment would supersede this one, and give its place back.
            world.environment = zectre_common::id::EnvironmentId::from_uuid(uuid::Uuid::from_u128(now.unix_ms() as u128 + u128::from(world.versions.len() as u64)));
        }
    }
}

#[test]
fn replicas_are_spread_and_what_is_short_is_named() {
    let mut world = World::new(3, 0);
    let id = world.deploy(r#"{"replicas":3}"#, super::world::Program::Serves);
    let nodes: std::collections::BTreeSet<_> = world
        .cluster
        .tasks_of(id)
        .filter_map(|task| task.node_id)
        .collect();
    assert_eq!(nodes.len(), 3, "one on each node");
    let expect = |json: &str, reason: Reason, words: &str| {
        let mut world = World::new(1, 0);
        let id = world.deploy(json, super::world::Program::Serves);
        let deployment = world.cluster.deployment(id).expect("loaded");
        assert_eq!(deployment.reason, Some(reason), "{json}");
        assert!(
            deployment.message.as_deref().is_some_and(|m| m.contains(words)),
            "{:?}",
            deployment.message
        );
    };
    expect(
        r#"{"image":"x"}"#,
        Reason::NoEligibleNode,
        "start a container engine",
    );
    expect(
        r#"{"constraints":["gpu"]}"#,
        Reason::NoEligibleNode,
        "the constraints gpu",
    );
    expect(
        r#"{"resources":{"memory":"9Gi"}}"#,
        Reason::NoCapacity,
        "no node is large enough",
    );
    expect(
        r#"{"replicas":20,"resources":{"cpu":"1m","memory":"200Mi"}}"#,
        Reason::NoCapacity,
        "200Mi memory",
    );
}

#[test]
fn nothing_is_placed_without_nodes_and_everything_once_one_comes() {
    let mut world = World::new(0, 0);
    let id = world.deploy("{}", super::world::Program::Serves);
    assert_eq!(
        world.cluster.deployment(id).expect("loaded").reason,
        Some(Reason::NoCapacity)
    );
    let node = NodeId::from_uuid(uuid::Uuid::from_u128(9));
    world.feed(Event::NodeRegistered {
        id: node,
        facts: facts("late", 1_000, 1_000, 8),
    });
    assert_eq!(
        world.cluster.tasks_of(id).next().and_then(|task| task.node_id),
        Some(node)
    );
    assert_eq!(world.cluster.deployment(id).expect("loaded").reason, None);
}

#[test]
fn the_same_events_and_seed_give_the_same_commands() {
    let run = || {
        let now = Time::from_unix_ms(1);
        let mut cluster = Cluster::load(settings(), 42, Snapshot::default(), now);
        let id = NodeId::from_uuid(uuid::Uuid::from_u128(5));
        step(
            &mut cluster,
            Event::NodeRegistered {
                id,
                facts: facts("n", 100, 100, 1),
            },
            now,
        )
    };
    assert_eq!(run(), run());
}
