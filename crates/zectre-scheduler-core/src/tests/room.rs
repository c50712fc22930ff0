//! Giving way: what serves is given the room of superseded versions that nobody asks for.

use super::world::{Program, World, facts};
use crate::{Command, Event, Source};
use zectre_common::{
    id::{DeploymentId, EnvironmentId},
    state::{DeploymentStatus, Eligibility, OperationKind, Reason, TaskState},
};

/// A version of so much cpu, that sleeps for nothing but a wish or for room, and serves.
fn version(world: &mut World, cpu: u32) -> DeploymentId {
    let json = format!(r#"{{"resources":{{"cpu":"{cpu}m","memory":"16Mi"}},"idle_timeout_secs":3600}}"#);
    world.deploy(&json, Program::Serves)
}

fn elsewhere(world: &mut World, number: u128) {
    world.environment = EnvironmentId::from_uuid(uuid::Uuid::from_u128(1 << 100 | number));
}

/// Superseded versions, asked for in this order a few seconds after each other, and the one that serves.
fn previews<const COUNT: usize>(world: &mut World, cpu: u32) -> ([DeploymentId; COUNT], DeploymentId) {
    let old = std::array::from_fn(|_| {
        let id = version(world, cpu);
        world.calm(5);
        id
    });
    let current = version(world, cpu);
    world.calm(5);
    assert_eq!(world.current(), Some(current));
    for id in old {
        world.wake(id);
        world.calm(5);
        assert_eq!(world.ready(id), 1);
    }
    (old, current)
}

fn is_asleep(world: &World, id: DeploymentId) -> bool {
    world.cluster.deployment(id).is_some_and(|d| d.asleep)
}

/// Who was told to have slept to make room, and for what.
fn gave_way(world: &World) -> Vec<(DeploymentId, String)> {
    let told = world
        .happenings
        .iter()
        .filter(|told| told.action == "deployment.asleep");
    let told = told.filter(|told| told.message.starts_with("slept to make room"));
    told.filter_map(|told| Some((told.deployment_id?, told.message.clone())))
        .collect()
}

#[test]
fn an_idle_preview_gives_way_to_a_new_version_and_wakes_again() {
    let mut world = World::new(1, 1);
    let ([preview], current) = previews(&mut world, 500);
    world.calm(30);
    let new = version(&mut world, 500);
    let [(slept, said)] = &gave_way(&world)[..] else {
        panic!("{:?}", gave_way(&world))
    };
    assert_eq!(*slept, preview);
    assert!(
        said.contains("make room for version 3 of its application")
            && said.contains("the next request wakes it"),
        "{said}"
    );
    world.calm(5);
    assert_eq!(
        (world.current(), world.status(new)),
        (Some(new), DeploymentStatus::Succeeded)
    );
    assert!(is_asleep(&world, preview) && is_asleep(&world, current));
    world.answers.clear();
    world.wake(preview);
    world.calm(5);
    assert_eq!(
        (&world.answers[..], world.ready(preview)),
        (&[Command::Ready(preview)][..], 1)
    );
}

/// Its last request is what counts, however late that is heard of; and it is looked at again while something waits.
#[test]
fn a_preview_that_is_asked_for_gives_way_only_when_it_no_longer_is() {
    let mut world = World::new(1, 1);
    let ([preview], _) = previews(&mut world, 500);
    world.calm(30);
    world.feed(Event::Activity(vec![(preview, world.now)]));
    let new = version(&mut world, 500);
    for _ in 0..5 {
        world.calm(20);
        assert_eq!((gave_way(&world), world.ready(preview)), (Vec::new(), 1));
        assert_eq!(world.rows.deployments[&new].reason, Some(Reason::NoCapacity));
        world.feed(Event::Activity(vec![(preview, world.now)]));
    }
    world.calm(36);
    assert_eq!(gave_way(&world).len(), 1);
    assert_eq!(world.current(), Some(new));
}

#[test]
fn those_asked_for_longest_ago_give_way_and_no_more_than_are_needed() {
    let mut world = World::new(1, 1);
    let (old, _) = previews::<4>(&mut world, 200);
    world.calm(40);
    // What was the oldest is the youngest now.
    world.feed(Event::Activity(vec![(old[0], world.now)]));
    world.calm(31);
    let new = version(&mut world, 200);
    world.calm(5);
    let first: Vec<_> = gave_way(&world).iter().map(|(id, _)| *id).collect();
    assert_eq!((world.current(), first), (Some(new), vec![old[1]]));
    // Beside it the one that it took over from has left its room by now.
    let large = version(&mut world, 600);
    world.calm(5);
    let all: Vec<_> = gave_way(&world).iter().map(|(id, _)| *id).collect();
    assert_eq!(
        (world.current(), all),
        (Some(large), vec![old[1], old[2], old[3]])
    );
    assert_eq!(world.ready(old[0]), 1, "nobody needed its room");
}

/// What the last of them leaves is enough by itself for some of those before it.
#[test]
fn a_small_one_stays_where_a_large_one_has_to_go_anyway() {
    let mut world = World::new(1, 1);
    let ids = [100, 600, 100].map(|cpu| {
        let id = version(&mut world, cpu);
        world.calm(5);
        id
    });
    for id in &ids[..2] {
        world.wake(*id);
        world.calm(5);
    }
    world.calm(31);
    let new = version(&mut world, 500);
    world.calm(5);
    let all: Vec<_> = gave_way(&world).iter().map(|(id, _)| *id).collect();
    assert_eq!(
        (world.current(), all, world.ready(ids[0])),
        (Some(new), vec![ids[1]], 1)
    );
}

/// A request for what serves and sleeps waits for such room as for any other that is about to be free.
#[test]
fn a_request_for_what_serves_waits_for_the_room_of_an_idle_preview() {
    let mut world = World::new(1, 1);
    elsewhere(&mut world, 1);
    let sleeps = version(&mut world, 500);
    world.calm(5);
    world.ask(OperationKind::Sleep, sleeps);
    world.calm(5);
    elsewhere(&mut world, 2);
    let ([preview], current) = previews(&mut world, 500);
    world.calm(31);
    world.answers.clear();
    world.wake(sleeps);
    assert_eq!(world.answers, [], "it waits");
    world.calm(5);
    assert_eq!(
        (&world.answers[..], world.ready(sleeps)),
        (&[Command::Ready(sleeps)][..], 1)
    );
    assert_eq!((is_asleep(&world, preview), world.ready(current)), (true, 1));
    // The other one serves, however idle it is: nothing gives way to another preview, nor what serves to anything.
    world.calm(60);
    world.answers.clear();
    world.wake(preview);
    assert!(
        matches!(
            &world.answers[..],
            [Command::WakeFailed {
                reason: Reason::NoCapacity,
                ..
            }]
        ),
        "{:?}",
        world.answers
    );
    assert_eq!((world.ready(sleeps), world.ready(current)), (1, 1));
}

#[test]
fn what_no_request_wakes_what_starts_and_what_is_on_trial_does_not_give_way() {
    // No request wakes it.
    let mut world = World::new(1, 1);
    let ([preview], _) = previews(&mut world, 500);
    world.change(preview, |d| d.cold_start_enabled = false);
    world.calm(40);
    version(&mut world, 500);
    world.calm(10);
    assert_eq!((gave_way(&world), world.ready(preview)), (Vec::new(), 1));
    // It is starting, for however long: somebody waits for it.
    let mut world = World::new(1, 1);
    let ([preview], _) = previews(&mut world, 500);
    world.ask(OperationKind::Sleep, preview);
    world.calm(5);
    world.programs.insert(preview, Program::Hangs);
    world.wake(preview);
    world.calm(40);
    version(&mut world, 500);
    world.calm(10);
    assert_eq!(
        (gave_way(&world), is_asleep(&world, preview)),
        (Vec::new(), false)
    );
    // It is on trial, and what it is tried beside serves.
    let mut world = World::new(1, 1);
    let current = version(&mut world, 500);
    world.calm(5);
    let canary = r#"{"resources":{"cpu":"500m","memory":"16Mi"},"strategy":{"type":"canary","weight":50}}"#;
    let canary = world.deploy(canary, Program::Serves);
    world.calm(40);
    elsewhere(&mut world, 5);
    version(&mut world, 500);
    world.calm(10);
    assert_eq!(
        (gave_way(&world), world.ready(current), world.ready(canary)),
        (Vec::new(), 1, 1)
    );
}

/// Of the room that one left, what serves has its turn before an older preview that waits for some too.
#[test]
fn room_that_was_made_goes_to_what_serves() {
    let mut world = World::new(1, 1);
    let ([first, second], _) = previews(&mut world, 300);
    // A third one, older than what is to come, that finds no room.
    world.ask(OperationKind::Sleep, first);
    world.calm(5);
    elsewhere(&mut world, 7);
    let fills = version(&mut world, 400);
    world.calm(5);
    assert_eq!(world.ready(fills), 1);
    world.wake(first);
    assert_eq!(
        world.cluster.tasks_of(first).next().map(|task| task.state),
        Some(TaskState::Pending)
    );
    world.calm(31);
    elsewhere(&mut world, 8);
    let new = version(&mut world, 300);
    world.calm(5);
    let all: Vec<_> = gave_way(&world).iter().map(|(id, _)| *id).collect();
    assert_eq!((all, world.ready(new)), (vec![second], 1));
    assert_eq!(world.ready(first), 0);
}

/// Nodes that take nothing, and rooms that would not do, make nobody sleep.
#[test]
fn nothing_gives_way_in_vain() {
    let mut world = World::new(2, 1);
    let ([preview], _) = previews(&mut world, 500);
    world.calm(31);
    // Not enough, even without it.
    elsewhere(&mut world, 3);
    for cpu in [900, 800] {
        version(&mut world, cpu);
        world.calm(5);
    }
    assert_eq!((gave_way(&world), world.ready(preview)), (Vec::new(), 1));
    // Its node is cordoned.
    let node = world
        .cluster
        .tasks_of(preview)
        .find_map(|task| task.node_id)
        .expect("it runs");
    world.feed(Event::NodeWanted {
        id: node,
        eligibility: Eligibility::Cordoned,
    });
    version(&mut world, 500);
    world.calm(10);
    assert_eq!((gave_way(&world), world.ready(preview)), (Vec::new(), 1));
}

/// However many could give way, a step looks at so many of them, and at none again while that is in vain.
#[test]
fn many_that_wait_beside_many_previews_cost_little() {
    let mut world = World::new(0, 0);
    let mut large = facts("large", 3_000, 100_000, 5_000);
    large.port_max = 29_999;
    world.join(
        zectre_common::id::NodeId::from_uuid(uuid::Uuid::from_u128(1)),
        large,
    );
    let row = |world: &mut World, number: u128, cpu: u32| {
        elsewhere(world, number);
        let json = format!(r#"{{"resources":{{"cpu":"{cpu}m","memory":"4Mi"}}}}"#);
        let mut row = world.deployment(&json, Program::Serves, Source::Ready);
        row.status = DeploymentStatus::Succeeded;
        row.finished_at = Some(world.now);
        (world.environment_row(row.application_id), row)
    };
    for number in 0..2_000 {
        let (environment, row) = row(&mut world, number, 1);
        let (id, deployments) = (row.id, vec![row]);
        drop(crate::step(
            &mut world.cluster,
            Event::Loaded {
                environment,
                deployments,
            },
            world.now,
        ));
        drop(crate::step(&mut world.cluster, Event::Wake(id), world.now));
    }
    assert_eq!(world.cluster.count_in(TaskState::Starting), 2_000);
    world.now = world.now.plus(std::time::Duration::from_secs(31));
    for number in 10_000..10_200 {
        let (environment, mut row) = row(&mut world, number, 2_500);
        row.status = DeploymentStatus::Pending;
        drop(crate::step(
            &mut world.cluster,
            Event::Loaded {
                environment,
                deployments: vec![row],
            },
            world.now,
        ));
    }
    let looked = world.cluster.looks_at_spare;
    assert!(looked <= 1_000, "{looked}");
}

/// Whoever waits for it is told to ask anew when all proxies route without it: who wants what serves is led there by then.
#[test]
fn who_waits_for_what_is_superseded_meanwhile_is_told_when_proxies_know() {
    let mut world = World::new(1, 1);
    let old = version(&mut world, 100);
    world.calm(5);
    world.ask(OperationKind::Sleep, old);
    world.calm(5);
    let new = version(&mut world, 100);
    world.wake(old);
    world.programs.insert(old, Program::Hangs);
    for _ in 0..10 {
        world.deliver();
        world.proxy_renews(0);
    }
    assert_eq!(world.current(), Some(new));
    assert!(is_asleep(&world, old) && world.displaced.is_empty());
    world.proxy_applies(0, false);
    assert_eq!(world.displaced, [old]);
}

#[test]
fn who_waits_for_what_is_deleted_is_told() {
    let mut world = World::new(1, 1);
    let id = version(&mut world, 100);
    world.calm(5);
    world.ask(OperationKind::Sleep, id);
    world.calm(5);
    world.programs.insert(id, Program::Hangs);
    world.wake(id);
    world.answers.clear();
    world.ask(OperationKind::Delete, id);
    assert!(
        matches!(&world.answers[..], [Command::WakeFailed { deployment_id, reason: Reason::Cancelled, .. }] if *deployment_id == id),
        "{:?}",
        world.answers
    );
}
