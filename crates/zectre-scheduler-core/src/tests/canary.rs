//! A canary is a share of the new version beside all of the old one, until its time is over or someone promotes it.

use super::world::{Program, World};
use zectre_common::{
    id::DeploymentId,
    state::{DeploymentStatus, Health, OperationKind, Reason},
};

fn on_trial(weight: u32, extra: &str) -> (World, DeploymentId, DeploymentId) {
    let mut world = World::new(3, 1);
    let old = world.deploy(r#"{"replicas":4}"#, Program::Serves);
    world.calm(5);
    let json = format!(
        r#"{{"replicas":4,"progress_deadline_secs":60,"strategy":{{"type":"canary","weight":{weight}{extra}}}}}"#
    );
    let new = world.deploy(&json, Program::Serves);
    world.calm(5);
    (world, old, new)
}

fn weight(world: &World) -> Option<u8> {
    world
        .cluster
        .environment(world.environment)
        .and_then(|e| e.target_weight)
}

#[test]
fn a_share_of_the_tasks_takes_a_share_of_the_requests_until_it_is_promoted() {
    for (share, size) in [(1, 1), (25, 1), (26, 2), (50, 2), (99, 4)] {
        let (mut world, old, new) = on_trial(share, "");
        assert_eq!((world.ready(new), world.ready(old)), (size, 4), "{share} %");
        assert_eq!((weight(&world), world.current()), (Some(share as u8), Some(old)));
        // It waits for as long as people like, and is well.
        world.calm(400);
        assert_eq!(world.status(new), DeploymentStatus::Running);
        assert_eq!(
            world.cluster.deployment(new).expect("known").health,
            Health::Healthy
        );
        world.ask(OperationKind::Promote, new);
        world.reload();
        for _ in 0..30 {
            world.calm_step(500);
            assert!(
                world.current() == Some(new) || world.ready(old) == 4,
                "the old one serves on"
            );
        }
        assert_eq!((world.current(), world.ready(new)), (Some(new), 4));
        assert_eq!(world.cluster.tasks_of(old).count(), 0);
        assert_eq!(
            (world.status(new), weight(&world)),
            (DeploymentStatus::Succeeded, None)
        );
    }
}

#[test]
fn it_takes_over_only_when_all_of_it_is_there() {
    let (mut world, old, new) = on_trial(25, r#","auto_promote_secs":10"#);
    world.programs.insert(new, Program::Hangs);
    world.calm(40);
    let promoted = world.cluster.deployment(new).expect("known");
    assert!(promoted.promoted_at.is_some(), "its time is over");
    assert_eq!((world.current(), world.ready(new)), (Some(old), 1));
    assert_eq!(weight(&world), Some(25), "no more than its share meanwhile");
    world.calm(60);
    let failed = world.cluster.deployment(new).expect("known");
    assert_eq!(
        (failed.status, failed.reason),
        (DeploymentStatus::Failed, Some(Reason::ProgressDeadline))
    );
    assert_eq!((world.current(), world.ready(old)), (Some(old), 4));
    assert_eq!(world.cluster.tasks_of(new).count(), 0);
}

#[test]
fn a_lost_task_is_replaced_and_waited_for_however_old_the_canary_is() {
    let (mut world, old, new) = on_trial(25, "");
    world.calm(400);
    let task = world.cluster.ready_tasks(new).next().expect("one").clone();
    let index = world
        .agents
        .iter()
        .position(|agent| Some(agent.id) == task.node_id);
    let index = index.expect("placed");
    world.agents[index].up = false;
    for _ in 0..12 {
        world.pass(1_000);
        (0..3).for_each(|index| world.heartbeat(index));
        world.deliver();
        world.proxy_applies(0, true);
    }
    assert_eq!(
        world.status(new),
        DeploymentStatus::Running,
        "{:?}",
        world.rows.deployments[&new].message
    );
    world.calm(20);
    assert_eq!((world.ready(new), world.current()), (1, Some(old)));
    // One that fails again and again is given up.
    world.programs.insert(new, Program::Exits(3));
    let index = world.agents.iter().position(|agent| {
        let held = |task: &crate::Task| agent.held.contains_key(&task.id);
        world.cluster.ready_tasks(new).any(held)
    });
    let task = world.cluster.ready_tasks(new).next().expect("one").clone();
    let report = super::agents::report(task.id, task.generation, zectre_common::state::TaskState::Failed);
    let index = index.expect("one holds it");
    world.agents[index].held.insert(task.id, report.clone());
    let node_id = task.node_id.expect("placed");
    world.feed(crate::Event::TaskReports {
        node_id,
        tasks: vec![report],
    });
    world.calm(30);
    assert_eq!(
        (world.status(new), world.current()),
        (DeploymentStatus::Failed, Some(old))
    );
}

#[test]
fn it_also_waits_beside_one_that_sleeps_and_needs_no_trial_without_one() {
    let mut world = World::new(3, 1);
    let old = world.deploy(r#"{"replicas":0}"#, Program::Serves);
    world.calm(2);
    let json = r#"{"replicas":4,"strategy":{"type":"canary","weight":50}}"#;
    let new = world.deploy(json, Program::Serves);
    world.calm(30);
    assert_eq!((world.current(), world.ready(new)), (Some(old), 2));
    let mut world = World::new(3, 1);
    let first = world.deploy(json, Program::Serves);
    world.calm(5);
    assert_eq!(
        (world.current(), world.ready(first), world.status(first)),
        (Some(first), 4, DeploymentStatus::Succeeded)
    );
}

#[test]
fn promotion_of_another_kind_of_rollout_waits_for_its_tasks() {
    let mut world = World::new(3, 1);
    let old = world.deploy(r#"{"replicas":3}"#, Program::Serves);
    world.calm(5);
    let new = world.deploy(r#"{"replicas":3}"#, Program::Serves);
    world.deliver();
    world.proxy_applies(0, true);
    assert_eq!(world.ready(new), 1);
    world.ask(OperationKind::Promote, new);
    assert_eq!(
        (world.current(), world.ready(old) + world.ready(new)),
        (Some(old), 3)
    );
    world.calm(20);
    assert_eq!((world.current(), world.ready(new)), (Some(new), 3));
}
