//! A step has a bound: what is too much for one goes on at once in the next, and nothing is forgotten.

use super::world::{Program, World, facts};
use crate::{Command, Deployment, Event, NodeFacts, Operation, Source, shelf::LOOKED, step};
use std::time::Duration;
use zectre_common::{
    id::{EnvironmentId, NodeId},
    state::{OperationKind, TaskState},
};

/// Rows of one step, with what its last deadline and its last look may add here.
const ROWS_MAX: usize = 4_096 + 2 * 200;

/// Steps until nothing is due; the most rows that one of them saved.
fn settle(world: &mut World) -> (usize, usize) {
    let (mut steps, mut most) = (0, 0);
    while world.cluster.next_deadline().is_some_and(|at| at <= world.now) {
        let commands = step(&mut world.cluster, Event::Tick, world.now);
        let is_row = |command: &&Command| {
            matches!(
                command,
                Command::SaveTask(_)
                    | Command::SaveDeployment(_)
                    | Command::SaveEnvironment(_)
                    | Command::SaveNode(_)
            )
        };
        most = most.max(commands.iter().filter(is_row).count());
        steps += 1;
        assert!(steps < 1_000, "it never ends");
    }
    (steps, most)
}

/// An environment of its own with one deployment.
fn bring(world: &mut World, number: u128, json: &str) {
    world.environment = EnvironmentId::from_uuid(uuid::Uuid::from_u128(1 << 100 | number));
    let row = world.deployment(json, Program::Serves, Source::Ready);
    let event = Event::Loaded {
        environment: world.environment_row(row.application_id),
        deployments: vec![row],
    };
    drop(step(&mut world.cluster, event, world.now));
}

fn join(world: &mut World, numbers: std::ops::Range<u128>) {
    for number in numbers {
        let mut facts = facts(&format!("n{number}"), 100_000, 100_000, 200);
        facts.port_max = 29_999;
        join_as(world, 1_000 + number, facts);
    }
}

/// A node registers and says that nothing runs on it.
fn join_as(world: &mut World, number: u128, facts: NodeFacts) {
    let id = NodeId::from_uuid(uuid::Uuid::from_u128(number));
    let (node_id, heard_at, tasks) = (id, world.now, Vec::new());
    let heartbeat = Event::Heartbeat {
        node_id,
        heard_at,
        tasks,
    };
    for event in [Event::NodeRegistered { id, facts }, heartbeat] {
        drop(step(&mut world.cluster, event, world.now));
    }
}

#[test]
fn the_loss_of_many_nodes_at_once_is_many_steps() {
    let mut world = World::new(0, 0);
    join(&mut world, 0..60);
    for number in 0..100 {
        bring(
            &mut world,
            number,
            r#"{"replicas":100,"resources":{"cpu":"1m","memory":"4Mi"}}"#,
        );
    }
    settle(&mut world);
    assert_eq!(world.cluster.count_in(TaskState::Starting), 10_000);
    world.now = world.now.plus(Duration::from_secs(10));
    let (steps, most) = settle(&mut world);
    assert!(most <= ROWS_MAX, "{most} rows in one of {steps} steps");
    assert_eq!(world.cluster.count_in(TaskState::Starting), 0);
    assert_eq!(
        world.cluster.count_in(TaskState::Pending),
        100,
        "one of each deployment waits for all of it"
    );
    // And when nodes come back, everything finds its place.
    join(&mut world, 60..120);
    let (_, most) = settle(&mut world);
    assert!(most <= ROWS_MAX, "{most} rows in one step");
    assert_eq!(world.cluster.count_in(TaskState::Starting), 10_000);
}

#[test]
fn a_try_in_vain_is_one_search_for_each_kind_of_need_however_many_wait() {
    const DEPLOYMENTS: u128 = 3_000;
    let mut world = World::new(0, 0);
    for number in 0..DEPLOYMENTS {
        // Two kinds of need, and one deployment of a kind of its own.
        let json = match number {
            7 => r#"{"replicas":100,"anti_affinity":true}"#,
            _ if number % 2 == 0 => r#"{"replicas":100,"resources":{"cpu":"300m","memory":"4Mi"}}"#,
            _ => r#"{"replicas":100,"resources":{"cpu":"1m","memory":"300Mi"}}"#,
        };
        bring(&mut world, number, json);
    }
    settle(&mut world);
    assert_eq!(world.cluster.count_in(TaskState::Pending), DEPLOYMENTS as usize);
    // What they wait for does not come: nodes too small for any of them, again and again.
    for number in 0..50 {
        let id = NodeId::from_uuid(uuid::Uuid::from_u128(1_000 + number));
        let facts = facts(&format!("small{number}"), 50, 100, 200);
        let before = world.cluster.searches;
        let mut rows = 0;
        for event in [
            Event::NodeRegistered { id, facts },
            Event::Heartbeat {
                node_id: id,
                heard_at: world.now,
                tasks: Vec::new(),
            },
        ] {
            rows += step(&mut world.cluster, event, world.now).len();
            rows += settle(&mut world).1;
        }
        let searches = world.cluster.searches - before;
        assert!(searches <= 2 * 3, "{searches} searches for three kinds, twice");
        assert!(rows < 500, "{rows} rows for a node of no use to anybody");
        world.now = world.now.plus(Duration::from_millis(100));
    }
    // And room for few costs what it places.
    let before = world.cluster.searches;
    let mut large = facts("large", 900, 290, 200);
    large.port_max = 29_999;
    join_as(&mut world, 5_000, large);
    settle(&mut world);
    let (placed, searches) = (
        world.cluster.count_in(TaskState::Starting) as u64,
        world.cluster.searches - before,
    );
    assert!(placed >= 3, "{placed} placed");
    assert!(
        searches <= 2 * (placed + 2 * 3),
        "{searches} searches for {placed} places"
    );
}

/// Whether room is about to be free is looked for once, too.
#[test]
fn a_look_for_room_to_come_answers_for_all_that_need_the_same() {
    const DEPLOYMENTS: u128 = 1_000;
    let whole = r#"{"resources":{"cpu":"1000m","memory":"4Mi"}}"#;
    let mut world = World::new(1, 0);
    bring(&mut world, 0, whole);
    settle(&mut world);
    let looks = |world: &World| world.cluster.looks_for_passing;
    for number in 1..=DEPLOYMENTS {
        bring(&mut world, number, whole);
    }
    settle(&mut world);
    assert_eq!(world.cluster.count_in(TaskState::Pending), DEPLOYMENTS as usize);
    assert_eq!(looks(&world), 1, "nothing is about to be free");
    // Something is to end: all who ask wait for its room.
    let (ends, waiting): (Vec<_>, Vec<_>) = world
        .cluster
        .deployments()
        .map(|deployment| deployment.id)
        .partition(|id| {
            world
                .cluster
                .tasks_of(*id)
                .any(|task| task.state == TaskState::Starting)
        });
    let task = world.cluster.tasks_of(ends[0]).next().expect("one").id;
    crate::drain::stop_task(&mut world.cluster, task, None, None, world.now);
    let ask = |world: &mut World| -> usize {
        let answers = waiting
            .iter()
            .flat_map(|id| step(&mut world.cluster, Event::Wake(*id), world.now));
        answers
            .filter(|answer| matches!(answer, Command::WakeFailed { .. }))
            .count()
    };
    assert_eq!((ask(&mut world), looks(&world)), (0, 2));
    for more in 1..=3 {
        world.now = world.now.plus(Duration::from_secs(1));
        let (steps, rows) = settle(&mut world);
        assert_eq!(
            (looks(&world), rows),
            (2 + more, 0),
            "one look a second, in {steps} steps"
        );
    }
}

#[test]
fn who_waits_in_vain_is_told_anew_in_turn_and_not_all_at_once() {
    let mut world = World::new(0, 0);
    for number in 0..250 {
        bring(&mut world, number, "{}");
    }
    settle(&mut world);
    let told = |world: &World, words: &str| {
        let of = |d: &Deployment| d.message.as_deref().is_some_and(|said| said.contains(words));
        world.cluster.deployments().filter(|d| of(d)).count()
    };
    assert_eq!(told(&world, "no node is ready"), 250);
    let id = NodeId::from_uuid(uuid::Uuid::from_u128(1_000));
    let facts = facts("small", 50, 50, 200);
    drop(step(
        &mut world.cluster,
        Event::NodeRegistered { id, facts },
        world.now,
    ));
    settle(&mut world);
    assert_eq!(told(&world, "no node is large enough"), 100);
    for expected in [200, 250] {
        world.now = world.now.plus(Duration::from_secs(1));
        settle(&mut world);
        assert_eq!(told(&world, "no node is large enough"), expected);
    }
    assert!(
        world
            .cluster
            .next_deadline()
            .is_none_or(|at| at.since(world.now) > Duration::from_secs(1)),
        "nothing more is to be told"
    );
}

#[test]
fn whoever_is_brought_back_to_be_asked_something_is_not_forgotten_before() {
    let mut world = World::new(1, 1);
    let old = world.deploy("{}", Program::Serves);
    world.calm(5);
    let new = world.deploy("{}", Program::Serves);
    world.calm(60);
    assert_eq!((world.current(), world.ready(old)), (Some(new), 0));
    let served = world.environment;
    let mut row = world.cluster.deployment(old).expect("it rests").clone();
    // More of them end, and rest, than are remembered.
    for number in 0..10_100 {
        world.environment = EnvironmentId::from_uuid(uuid::Uuid::from_u128(1 << 100 | number));
        let mut other = row.clone();
        (other.id, other.environment_id) = (
            zectre_common::id::DeploymentId::from_uuid(uuid::Uuid::from_u128(1 << 90 | number)),
            world.environment,
        );
        let event = Event::Loaded {
            environment: world.environment_row(row.application_id),
            deployments: vec![other],
        };
        drop(step(&mut world.cluster, event, world.now));
    }
    assert!(world.cluster.deployment(old).is_none(), "it rested for longest");
    assert!(world.cluster.deployments().count() <= 10_001);
    assert!(
        world.cluster.environments().count() <= 10_001,
        "nor are their environments remembered"
    );
    // The database's row, with the smallest id of all.
    world.environment = served;
    row.environment_id = served;
    let environment = world.cluster.environment(served).expect("one serves").clone();
    let deployments = vec![row];
    drop(step(
        &mut world.cluster,
        Event::Loaded {
            environment,
            deployments,
        },
        world.now,
    ));
    assert!(world.cluster.deployment(old).is_some());
    let operation = Operation {
        id: 1_000,
        kind: OperationKind::Rollback,
        deployment_id: Some(new),
        task_id: None,
        node_id: None,
        actor: "user:test".into(),
        request_id: None,
    };
    drop(step(&mut world.cluster, Event::Operation(operation), world.now));
    let target = world.cluster.environment(served).expect("known").target;
    assert_eq!(target, Some(old));
}

#[test]
fn a_leader_that_was_late_excuses_the_silence_of_that_time_and_no_more() {
    let mut world = World::new(2, 0);
    let lost = |world: &World, index: usize| {
        let node = world.cluster.node(world.agents[index].id).expect("it joined");
        node.status == zectre_common::state::NodeStatus::Lost
    };
    // One speaks, the other is gone; the leader stands still from 9 s to 14 s.
    for _ in 0..4 {
        world.pass(2_000);
        world.heartbeat(0);
    }
    world.pass(6_000);
    assert!(
        !lost(&world, 0) && !lost(&world, 1),
        "what they said may wait to be heard"
    );
    world.heartbeat(0);
    world.pass(2_000);
    world.heartbeat(0);
    world.pass(2_100);
    assert!(!lost(&world, 0));
    assert!(lost(&world, 1), "its lease went on");
    // Late again and again: a loss is found out all the same.
    let mut world = World::new(1, 0);
    for _ in 0..20 {
        let due = world.cluster.next_deadline();
        let wait = due.map_or(Duration::ZERO, |at| at.since(world.now));
        world.pass(wait.as_millis() as u64 + 2_000);
    }
    assert!(lost(&world, 0));
}

/// Nodes that a place may cost a look, of ten thousand: some paths through a tree of them.
const LOOKS_MAX: u64 = 150;

#[test]
fn a_place_among_ten_thousand_nodes_is_found_without_looking_at_them_all() {
    let mut world = World::new(0, 0);
    // All have memory, one in twenty has a core: those that lack it stand between.
    for number in 0..10_000 {
        let cpu = if number % 20 == 0 { 1_000 } else { 50 };
        let memory_mib = 1_000 + number as u64 % 500;
        join_as(
            &mut world,
            1_000 + number,
            facts(&format!("n{number}"), cpu, memory_mib, 64),
        );
    }
    settle(&mut world);
    let mut serial = 0;
    let mut look = |what: &str, deployments: u128, replicas: u64| {
        let (before, placed) = (LOOKED.get(), world.cluster.count_in(TaskState::Starting) as u64);
        for _ in 0..deployments {
            serial += 1;
            let json = format!(r#"{{"replicas":{replicas},"resources":{{"cpu":"100m","memory":"64Mi"}}}}"#);
            bring(&mut world, serial, &json);
        }
        settle(&mut world);
        let placed = world.cluster.count_in(TaskState::Starting) as u64 - placed;
        assert_eq!(placed, deployments as u64 * replicas, "{what}");
        let looked = LOOKED.get() - before;
        assert!(
            looked <= placed * LOOKS_MAX,
            "{what}: {looked} looks for {placed} places"
        );
    };
    look("one task each", 200, 1);
    look("many replicas, each on a node of its own", 1, 400);
    look("more of it than there are nodes for", 1, 1_000);
}
