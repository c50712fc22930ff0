//! Waiting for room: who waits in vain is told soon and exactly, and nobody is forgotten.

use super::world::{Program, World, facts, settings};
use crate::{Cluster, Command, Event, Snapshot, Source, step};
use zectre_common::{
    id::{DeploymentId, EnvironmentId, NodeId},
    state::{DeploymentStatus, Eligibility, OperationKind, Reason, TaskState},
};

/// Whoever waits was refused once, for this reason.
fn assert_refused(answers: &[Command], why: Reason) {
    assert!(
        matches!(answers, [Command::WakeFailed { reason, .. }] if *reason == why),
        "{answers:?}"
    );
}

#[test]
fn a_rollout_that_no_node_could_ever_run_fails_soon_and_one_that_runs_waits() {
    for json in [r#"{"image":"nginx"}"#, r#"{"constraints":["gpu"]}"#] {
        for restart in ["always", "never"] {
            let mut world = World::new(2, 1);
            let json = json.replace('{', &format!(r#"{{"restart":"{restart}","#));
            let id = world.deploy(&json, Program::Serves);
            world.calm(14);
            assert_eq!(
                world.status(id),
                DeploymentStatus::Pending,
                "nodes may be registering"
            );
            world.calm(4);
            let row = &world.rows.deployments[&id];
            assert_eq!(
                (row.status, row.reason),
                (DeploymentStatus::Failed, Some(Reason::NoEligibleNode)),
                "{json}"
            );
            assert!(
                row.message
                    .as_deref()
                    .is_some_and(|m| m.contains("none of 2 nodes"))
            );
            assert_eq!(world.cluster.tasks_of(id).count(), 0);
        }
    }
    // In time, a node that can run it came.
    let mut world = World::new(1, 1);
    let id = world.deploy(r#"{"constraints":["gpu"]}"#, Program::Serves);
    world.calm(10);
    let mut able = facts("able", 1_000, 1_000, 8);
    able.labels.insert("gpu".into(), "1".into());
    let node = NodeId::from_uuid(uuid::Uuid::from_u128(9_999));
    world.join(node, able.clone());
    assert_eq!(
        world.cluster.tasks_of(id).next().expect("one").node_id,
        Some(node)
    );
}

#[test]
fn a_rollout_that_no_node_is_large_enough_for_fails_soon_and_names_what_is_short() {
    for (resources, short) in [
        (
            r#"{"cpu":"100m","memory":"4Ti"}"#,
            "none has more than 1280Mi memory",
        ),
        (r#"{"cpu":"64","memory":"4Mi"}"#, "none has more than 1000m cpu"),
        (
            r#"{"cpu":"64","memory":"4Ti"}"#,
            "none has more than 1280Mi memory, nor than 1000m cpu",
        ),
    ] {
        for restart in ["always", "never"] {
            let mut world = World::new(2, 1);
            let json = format!(r#"{{"restart":"{restart}","resources":{resources}}}"#);
            let id = world.deploy(&json, Program::Serves);
            world.calm(14);
            assert_eq!(world.status(id), DeploymentStatus::Pending);
            world.calm(4);
            let row = &world.rows.deployments[&id];
            assert_eq!(
                (row.status, row.reason),
                (DeploymentStatus::Failed, Some(Reason::NoCapacity)),
                "{json}"
            );
            let said = row.message.clone().unwrap_or_default();
            assert!(said.contains(short), "{said}");
            assert_eq!(world.cluster.tasks_of(id).count(), 0);
        }
    }
}

#[test]
fn a_node_that_is_large_enough_is_waited_for_while_it_is_full_cordoned_or_silent() {
    let large = NodeId::from_uuid(uuid::Uuid::from_u128(9_999));
    let json = r#"{"resources":{"cpu":"2","memory":"2Gi"},"idle_timeout_secs":0}"#;
    let world_with_it = || {
        let mut world = World::new(1, 1);
        world.agents[0].id = large;
        world.join(large, facts("large", 2_000, 2_100, 8));
        world
    };
    // Full.
    let mut world = world_with_it();
    world.deploy(json, Program::Serves);
    world.calm(5);
    let next = world.deploy(json, Program::Serves);
    world.calm(30);
    assert_eq!(world.status(next), DeploymentStatus::Pending);
    // Cordoned.
    let mut world = world_with_it();
    let cordon = |eligibility| Event::NodeWanted {
        id: large,
        eligibility,
    };
    world.feed(cordon(Eligibility::Cordoned));
    let id = world.deploy(json, Program::Serves);
    world.calm(30);
    assert_eq!(world.status(id), DeploymentStatus::Pending);
    world.feed(cordon(Eligibility::Eligible));
    world.calm(5);
    assert_eq!(world.status(id), DeploymentStatus::Succeeded);
    // Silent: the small one goes on telling.
    let mut world = world_with_it();
    let small = NodeId::from_uuid(uuid::Uuid::from_u128(9_998));
    world.join(small, facts("small", 1_000, 1_000, 8));
    let silence = |world: &mut World, secs: u64| {
        for _ in 0..secs {
            world.pass(1_000);
            world.digest(small, Vec::new());
        }
    };
    silence(&mut world, 15);
    let id = world.deploy(json, Program::Serves);
    silence(&mut world, 30);
    let row = &world.rows.deployments[&id];
    assert_eq!(row.status, DeploymentStatus::Pending);
    let said = row.message.clone().unwrap_or_default();
    assert!(
        said.contains("large enough") && said.contains("don't answer: large"),
        "{said}"
    );
    // Deleted, it is not waited for any more.
    world.feed(Event::NodeGone(large));
    silence(&mut world, 2);
    let row = &world.rows.deployments[&id];
    assert_eq!(
        (row.status, row.reason),
        (DeploymentStatus::Failed, Some(Reason::NoCapacity))
    );
}

#[test]
fn what_served_once_waits_for_its_kind_of_node_without_end() {
    let mut world = World::new(1, 1);
    let mut able = facts("n0", 1_000, 1_280, 8);
    able.labels.insert("gpu".into(), "1".into());
    let node = world.agents[0].id;
    world.join(node, able.clone());
    let id = world.deploy(
        r#"{"constraints":["gpu"],"idle_timeout_secs":0}"#,
        Program::Serves,
    );
    world.calm(5);
    assert_eq!(world.status(id), DeploymentStatus::Succeeded);
    let other = NodeId::from_uuid(uuid::Uuid::from_u128(9_999));
    world.join(other, facts("other", 1_000, 1_000, 8));
    for _ in 0..100 {
        world.pass(5_000);
        world.digest(other, Vec::new());
    }
    let waiting = world.cluster.tasks_of(id).next().expect("it waits").clone();
    assert_eq!(waiting.state, TaskState::Pending);
    let said = waiting.message.expect("it says why");
    assert!(said.contains("don't answer: n0"), "{said}");
    world.calm(5);
    assert_eq!(world.ready(id), 1);
}

/// What is said when not all of it fits on these nodes of so much cpu, memory and so many slots.
fn expect(nodes: &[(u32, u64, u32)], json: &str, words: &[&str]) {
    let mut world = World::new(0, 0);
    for (index, (cpu, memory, slots)) in nodes.iter().enumerate() {
        let id = NodeId::from_uuid(uuid::Uuid::from_u128(1_000 + index as u128));
        let facts = facts(&format!("n{index}"), *cpu, *memory, *slots);
        world.join(id, facts);
    }
    let id = world.deploy(json, Program::Serves);
    let row = &world.rows.deployments[&id];
    assert_eq!(row.reason, Some(Reason::NoCapacity), "{json}");
    let said = row.message.clone().unwrap_or_default();
    assert!(
        words.iter().all(|word| said.contains(word)),
        "{said:?} lacks one of {words:?}"
    );
}

#[test]
fn what_is_short_is_named_alone_and_together() {
    let six = |resources: &str| format!(r#"{{"replicas":6,"resources":{resources}}}"#);
    expect(
        &[(9_000, 500, 9)],
        &six(r#"{"cpu":"1m","memory":"200Mi"}"#),
        &["200Mi memory free"],
    );
    expect(
        &[(500, 9_000, 9)],
        &six(r#"{"cpu":"200m","memory":"4Mi"}"#),
        &["200m cpu free"],
    );
    expect(
        &[(500, 500, 9)],
        &six(r#"{"cpu":"200m","memory":"200Mi"}"#),
        &["200Mi memory and 200m cpu free"],
    );
    expect(
        &[(9_000, 9_000, 2)],
        &six(r#"{"cpu":"1m","memory":"4Mi"}"#),
        &["a task slot free"],
    );
    expect(
        &[(9_000, 500, 9), (500, 9_000, 9)],
        &six(r#"{"cpu":"200m","memory":"200Mi"}"#),
        &[
            "none of 2 suitable nodes has room",
            "1 without 200Mi memory",
            "1 without 200m cpu",
        ],
    );
    expect(
        &[(9_000, 9_000, 9), (9_000, 9_000, 9)],
        r#"{"replicas":3,"anti_affinity":true}"#,
        &["without another replica of it (anti_affinity)"],
    );
    expect(
        &[(9_000, 9_000, 9), (10, 9_000, 9)],
        r#"{"replicas":3,"anti_affinity":true}"#,
        &["1 without 100m cpu", "1 without a place without another replica"],
    );
    // Ports: more slots than the range has.
    expect(
        &[(90_000, 90_000, 900)],
        r#"{"replicas":70,"resources":{"cpu":"1m","memory":"4Mi"}}"#,
        &["a port free"],
    );
    // All that could are not to be used.
    let mut world = World::new(2, 0);
    for index in 0..2 {
        let id = world.agents[index].id;
        world.feed(Event::NodeWanted {
            id,
            eligibility: Eligibility::Cordoned,
        });
    }
    let id = world.deploy("{}", Program::Serves);
    let said = world.rows.deployments[&id].message.clone().expect("it waits");
    assert!(
        said.contains("all 2 suitable nodes are cordoned or draining"),
        "{said}"
    );
}

#[test]
fn everyone_who_waits_is_tried_when_room_appears_however_many_they_are() {
    let mut world = World::new(0, 0);
    for number in 0..1_200u128 {
        world.environment = EnvironmentId::from_uuid(uuid::Uuid::from_u128(1 << 100 | number));
        let json = r#"{"resources":{"cpu":"1m","memory":"4Mi"}}"#;
        let row = world.deployment(json, Program::Serves, Source::Ready);
        let event = Event::Loaded {
            environment: world.environment_row(row.application_id),
            deployments: vec![row],
        };
        drop(step(&mut world.cluster, event, world.now));
    }
    assert_eq!(world.cluster.count_in(TaskState::Pending), 1_200);
    let mut large = facts("large", 100_000, 100_000, 5_000);
    large.port_max = 29_999;
    let id = NodeId::from_uuid(uuid::Uuid::from_u128(1));
    drop(step(
        &mut world.cluster,
        Event::NodeRegistered { id, facts: large },
        world.now,
    ));
    let tasks = Vec::new();
    drop(step(
        &mut world.cluster,
        Event::Heartbeat {
            node_id: id,
            heard_at: world.now,
            tasks,
        },
        world.now,
    ));
    // What a step leaves over is due at once.
    for _ in 0..3 {
        assert!(world.cluster.next_deadline().is_some());
        drop(step(&mut world.cluster, Event::Tick, world.now));
    }
    assert_eq!(world.cluster.count_in(TaskState::Starting), 1_200);
}

#[test]
fn a_restart_that_finds_no_room_is_given_up_and_nothing_stops() {
    let mut world = World::new(2, 1);
    let json = r#"{"replicas":2,"anti_affinity":true,"idle_timeout_secs":0,"progress_deadline_secs":30}"#;
    let id = world.deploy(json, Program::Serves);
    world.calm(5);
    let before: Vec<_> = world.cluster.tasks_of(id).map(|task| task.id).collect();
    world.ask(OperationKind::Restart, id);
    assert_eq!(world.cluster.tasks_of(id).count(), 4);
    for _ in 0..50 {
        world.calm_step(1_000);
        assert_eq!(world.ready(id), 2);
    }
    let after: Vec<_> = world.cluster.tasks_of(id).map(|task| task.id).collect();
    assert_eq!(after, before, "its tasks serve on");
    // With a third node it goes through, and never two on one node.
    let third = NodeId::from_uuid(uuid::Uuid::from_u128(9_999));
    world.agents.push(super::world::Agent {
        id: third,
        up: true,
        held: std::collections::BTreeMap::new(),
        started: std::collections::BTreeMap::new(),
    });
    world.join(third, facts("third", 1_000, 1_280, 8));
    world.ask(OperationKind::Restart, id);
    world.calm(20);
    assert!(world.cluster.tasks_of(id).all(|task| !before.contains(&task.id)));
    assert_eq!(world.ready(id), 2);
}

#[test]
fn a_restart_behind_a_replica_without_room_is_given_up_too() {
    let mut world = World::new(2, 1);
    let json = r#"{"replicas":2,"anti_affinity":true,"idle_timeout_secs":0,"progress_deadline_secs":30}"#;
    let id = world.deploy(json, Program::Serves);
    world.calm(5);
    world.change(id, |deployment| deployment.replicas = 3);
    world.calm(5);
    let before: Vec<_> = world.cluster.tasks_of(id).map(|task| task.id).collect();
    assert_eq!((before.len(), world.ready(id)), (3, 2), "one waits for room");
    world.ask(OperationKind::Restart, id);
    for _ in 0..50 {
        world.calm_step(1_000);
        assert_eq!(world.ready(id), 2);
    }
    let after: Vec<_> = world.cluster.tasks_of(id).map(|task| task.id).collect();
    assert_eq!(
        after, before,
        "the one that waits goes on waiting, nothing else does"
    );
}

#[test]
fn nodes_that_come_and_go_leave_nothing_behind() {
    let now = zectre_common::time::Time::from_unix_ms(1_000);
    let mut cluster = Cluster::load(settings(), 1, Snapshot::default(), now);
    let id = NodeId::from_uuid(uuid::Uuid::from_u128(1));
    let facts = facts("n", 1, 1, 1);
    for _ in 0..3 {
        drop(step(
            &mut cluster,
            Event::NodeRegistered {
                id,
                facts: facts.clone(),
            },
            now,
        ));
        drop(step(&mut cluster, Event::NodeGone(id), now));
    }
    assert_eq!(cluster.nodes().count(), 0);
    assert_eq!(cluster.next_deadline(), None);
}

#[test]
fn a_second_wake_during_a_known_shortage_is_answered_at_once() {
    let mut world = World::new(1, 1);
    let id = world.deploy("{}", Program::Serves);
    world.calm(5);
    world.ask(OperationKind::Sleep, id);
    world.calm(5);
    let node = world.agents[0].id;
    let eligibility = Eligibility::Cordoned;
    world.feed(Event::NodeWanted {
        id: node,
        eligibility,
    });
    for wake in 1..=3 {
        world.answers.clear();
        world.wake(id);
        assert!(
            matches!(&world.answers[..], [Command::WakeFailed { deployment_id, reason: Reason::NoCapacity, message }]
                if *deployment_id == id && message.contains("cordoned")),
            "wake {wake}: {:?}",
            world.answers
        );
    }
    let eligibility = Eligibility::Eligible;
    world.feed(Event::NodeWanted {
        id: node,
        eligibility,
    });
    world.answers.clear();
    world.wake(id);
    assert_eq!(world.answers, [], "it starts");
    world.deliver();
    assert_eq!(world.answers, [Command::Ready(id)]);
}

/// What is to end leaves its room: a request waits for that as for any start.
#[test]
fn a_wake_waits_for_room_that_is_about_to_be_free() {
    let mut world = World::new(1, 1);
    let id = world.deploy(r#"{"resources":{"cpu":"1000m"}}"#, Program::Serves);
    world.calm(5);
    world.ask(OperationKind::Sleep, id);
    world.proxy_applies(0, true);
    assert_eq!(world.cluster.tasks_of(id).count(), 1, "it is told to stop");
    for wake in 1..=2 {
        world.answers.clear();
        world.wake(id);
        assert_eq!(world.answers, [], "wake {wake} waits");
    }
    world.deliver();
    world.deliver();
    assert_eq!(world.answers, [Command::Ready(id)]);

    // What another one holds is not about to be free.
    world.ask(OperationKind::Sleep, id);
    world.calm(5);
    let other = world.deploy(
        r#"{"resources":{"cpu":"1000m"},"strategy":"recreate"}"#,
        Program::Serves,
    );
    world.calm(5);
    assert_eq!(world.ready(other), 1);
    world.answers.clear();
    world.wake(id);
    assert_refused(&world.answers, Reason::NoCapacity);
}

/// Environments of their own with a program each that needs a whole node, and sleeps.
fn sleepers<const COUNT: usize>(world: &mut World) -> [DeploymentId; COUNT] {
    std::array::from_fn(|number| {
        world.environment = EnvironmentId::from_uuid(uuid::Uuid::from_u128(1 << 100 | number as u128));
        let id = world.deploy(r#"{"resources":{"cpu":"1000m"}}"#, Program::Serves);
        world.calm(5);
        world.ask(OperationKind::Sleep, id);
        if number + 1 < COUNT {
            world.calm(5);
        }
        id
    })
}

fn is_refused(answer: &Command, id: DeploymentId) -> bool {
    matches!(
        answer,
        Command::WakeFailed { deployment_id, reason: Reason::NoCapacity, .. } if *deployment_id == id
    )
}

/// Of two that wait for the room of one that ends, one gets it: the other one is told, and not left to its time-out.
#[test]
fn who_waits_for_room_that_another_one_gets_is_told_soon() {
    let mut world = World::new(1, 1);
    let [first, second, ends] = sleepers(&mut world);
    world.proxy_applies(0, true);
    assert_eq!(world.cluster.tasks_of(ends).count(), 1, "it is told to stop");
    world.answers.clear();
    for id in [first, second, first, second] {
        world.wake(id);
    }
    assert_eq!(world.answers, [], "both wait");
    world.calm(6);
    let (ready, refused): (Vec<_>, Vec<_>) =
        (world.answers.iter()).partition(|answer| matches!(answer, Command::Ready(_)));
    let [Command::Ready(served)] = ready[..] else {
        panic!("{:?}", world.answers)
    };
    let lost = if *served == first { second } else { first };
    assert!(
        matches!(refused[..], [answer] if is_refused(answer, lost)),
        "{:?}",
        world.answers
    );
    assert_eq!(world.ready(*served), 1);
}

/// What was to end goes on: no room will be free.
#[test]
fn who_waits_for_room_of_what_goes_on_after_all_is_told_soon() {
    let mut world = World::new(1, 1);
    let [waits, ends] = sleepers(&mut world);
    world.proxy_applies(0, false);
    world.answers.clear();
    world.wake(waits);
    assert_eq!(world.answers, [], "it waits");
    world.wake(ends);
    assert_eq!(world.ready(ends), 1, "its task is taken back");
    world.answers.clear();
    world.calm(3);
    assert!(
        matches!(&world.answers[..], [answer] if is_refused(answer, waits)),
        "{:?}",
        world.answers
    );
    assert_eq!(world.cluster.next_deadline().map(|at| at > world.now), Some(true));
}

/// Whoever waits is served by the first of its tasks, whatever the others wait for.
#[test]
fn a_wake_of_which_only_some_replicas_find_room_is_not_refused() {
    let mut world = World::new(1, 1);
    let id = world.deploy(r#"{"resources":{"cpu":"600m"}}"#, Program::Serves);
    world.calm(5);
    world.ask(OperationKind::Sleep, id);
    world.calm(5);
    world.change(id, |deployment| deployment.replicas = 2);
    world.answers.clear();
    world.wake(id);
    assert_eq!(world.answers, [], "one starts");
    world.calm(5);
    assert!(
        world.answers.iter().all(|answer| *answer == Command::Ready(id)),
        "{:?}",
        world.answers
    );
    assert_eq!(world.ready(id), 1);
}

/// A new leader doesn't know yet what else runs on a node.
#[test]
fn a_wake_waits_for_the_first_digest_that_a_new_leader_hears() {
    let mut world = World::new(1, 1);
    let id = world.deploy("{}", Program::Serves);
    world.calm(5);
    world.ask(OperationKind::Sleep, id);
    world.calm(5);
    world.reload();
    for wake in 1..=2 {
        world.answers.clear();
        world.wake(id);
        assert_eq!(world.answers, [], "wake {wake} waits");
    }
    world.heartbeat(0);
    world.deliver();
    assert_eq!(world.answers, [Command::Ready(id)]);
}

#[test]
fn a_wake_during_the_pause_of_a_crash_loop_is_answered_at_once() {
    let mut world = World::new(1, 1);
    let id = world.deploy("{}", Program::Serves);
    world.calm(5);
    for _ in 0..4 {
        world.calm(5);
        while world.crash(0).is_some() {}
    }
    assert!(
        world
            .cluster
            .tasks_of(id)
            .all(|task| task.reason == Some(Reason::CrashLoop))
    );
    world.answers.clear();
    world.wake(id);
    assert_refused(&world.answers, Reason::CrashLoop);
}
