//! When a take-over counts as done, how a lost rollout gives back what it took, and that nothing stays between
//! two states.

use super::world::{Program, World};
use crate::{Command, Event, Source};
use zectre_common::{
    id::{DeploymentId, NodeId},
    state::{DeploymentStatus, Health, OperationKind, Reason, TaskState},
};

fn running(replicas: u32, proxies: usize) -> (World, DeploymentId) {
    let mut world = World::new(3, proxies);
    let id = world.deploy(&format!(r#"{{"replicas":{replicas}}}"#), Program::Serves);
    world.calm(5);
    assert_eq!(world.status(id), DeploymentStatus::Succeeded);
    (world, id)
}

/// A second version that has taken over, while no proxy has said that it knows.
fn taken_over(proxies: usize) -> (World, DeploymentId, DeploymentId) {
    let (mut world, old) = running(1, proxies);
    let new = world.deploy("{}", Program::Serves);
    world.deliver();
    assert_eq!(world.current(), Some(new));
    (world, old, new)
}

#[test]
fn succeeded_waits_for_every_live_proxy() {
    let (mut world, _, new) = taken_over(2);
    assert_eq!(world.status(new), DeploymentStatus::Running);
    world.proxy_applies(0, false);
    assert_eq!(world.status(new), DeploymentStatus::Running, "one of two knows");
    world.proxy_applies(1, false);
    assert_eq!(
        world.status(new),
        DeploymentStatus::Succeeded,
        "it need not have drained"
    );
    assert!(
        world
            .cluster
            .deployment(new)
            .expect("known")
            .finished_at
            .is_some()
    );
}

#[test]
fn a_proxy_that_falls_silent_is_not_waited_for_and_no_deadline_fails_the_winner() {
    let (mut world, old, new) = taken_over(1);
    let node_ids: Vec<NodeId> = world.agents.iter().map(|agent| agent.id).collect();
    assert_eq!(node_ids.len(), 3);
    world.pass(9_000);
    assert_eq!(world.status(new), DeploymentStatus::Running);
    world.pass(2_000);
    assert_eq!(world.status(new), DeploymentStatus::Succeeded, "its lease ended");
    assert_eq!(world.status(old), DeploymentStatus::Succeeded);
    // A proxy that lives but never gets there: the progress deadline is not its.
    let (mut world, _, new) = taken_over(1);
    let stuck = *world.cluster.proxies().next().expect("one");
    for _ in 0..100 {
        world.pass(4_000);
        (0..3).for_each(|index| world.heartbeat(index));
        let lease_expires_at = world.now.plus(std::time::Duration::from_secs(10));
        world.feed(Event::ProxyReport(crate::Proxy {
            lease_expires_at,
            ..stuck
        }));
    }
    assert_eq!(
        (world.status(new), world.current()),
        (DeploymentStatus::Running, Some(new))
    );
    world.kill_proxy(0);
    assert_eq!(world.status(new), DeploymentStatus::Succeeded);
}

#[test]
fn without_proxies_it_succeeds_at_once_and_a_new_leader_waits_on() {
    let (world, _, new) = taken_over(0);
    assert_eq!(world.status(new), DeploymentStatus::Succeeded);
    let (mut world, _, new) = taken_over(1);
    world.reload();
    world.pass(1);
    assert_eq!(
        (world.status(new), world.current()),
        (DeploymentStatus::Running, Some(new)),
        "the rows tell that it waits"
    );
    assert_eq!(world.cluster.rollouts(), 0, "it is not rolled out again");
    world.proxy_applies(0, false);
    assert_eq!(world.status(new), DeploymentStatus::Succeeded);
    // The last proxy went while nobody led.
    let (mut world, _, new) = taken_over(1);
    world.kill_proxy(0);
    world.reload();
    world.pass(1);
    assert_eq!(world.status(new), DeploymentStatus::Succeeded);
}

#[test]
fn what_happens_between_take_over_and_acknowledgement_ends_it() {
    // Asked to go back: it has won, so there is something to go back from.
    let (mut world, old, new) = taken_over(1);
    world.ask(OperationKind::Cancel, new);
    assert_eq!(world.current(), Some(new), "too late to cancel");
    world.ask(OperationKind::Rollback, new);
    world.calm(5);
    assert_eq!(
        (world.current(), world.status(new)),
        (Some(old), DeploymentStatus::Succeeded)
    );
    // A newer version takes over before any proxy knew of it.
    let (mut world, _, new) = taken_over(1);
    let newest = world.deploy(r#"{"strategy":"blue_green"}"#, Program::Serves);
    world.deliver();
    assert_eq!(
        (world.current(), world.status(new), world.status(newest)),
        (
            Some(newest),
            DeploymentStatus::Succeeded,
            DeploymentStatus::Running
        )
    );
    world.reload();
    world.calm(5);
    assert_eq!(world.status(newest), DeploymentStatus::Succeeded);
    // Deleted.
    let (mut world, _, new) = taken_over(1);
    world.ask(OperationKind::Delete, new);
    world.calm(5);
    assert_eq!(
        (world.status(new), world.cluster.tasks_of(new).count()),
        (DeploymentStatus::Cancelled, 0)
    );
    // Without replicas: asleep as soon as it took over, and a request wakes it even before the proxies know.
    let mut world = World::new(1, 1);
    let empty = world.deploy(r#"{"replicas":0}"#, Program::Serves);
    world.deliver();
    assert_eq!(
        (
            world.ready(empty),
            world.cluster.deployment(empty).map(|d| d.asleep)
        ),
        (0, Some(true))
    );
    assert_eq!(world.status(empty), DeploymentStatus::Running);
    world.feed(Event::Wake(empty));
    world.deliver();
    assert_eq!(world.ready(empty), 1);
    world.proxy_applies(0, false);
    assert_eq!(world.status(empty), DeploymentStatus::Succeeded);
}

#[test]
fn a_broken_version_without_replicas_leaves_what_serves() {
    for program in [Program::Exits(1), Program::Hangs] {
        let (mut world, old) = running(2, 1);
        let new = world.deploy(r#"{"replicas":0,"progress_deadline_secs":60}"#, program);
        world.calm(120);
        assert_eq!(
            (world.status(new), world.current(), world.ready(old)),
            (DeploymentStatus::Failed, Some(old), 2)
        );
        assert_eq!(world.cluster.tasks_of(new).count(), 0);
    }
}

#[test]
fn scaled_to_none_in_its_own_rollout_it_sleeps_once_it_has_taken_over() {
    for asked in [false, true] {
        let (mut world, _) = running(2, 1);
        let new = world.deploy(r#"{"replicas":2,"idle_timeout_secs":0}"#, Program::Serves);
        world.change(new, |row| row.replicas = 0);
        if asked {
            world.pass(500);
            world.feed(Event::Activity(vec![(new, world.now)]));
        }
        world.calm(30);
        assert_eq!(
            (world.current(), world.status(new), world.ready(new)),
            (Some(new), DeploymentStatus::Succeeded, usize::from(asked))
        );
    }
}

/// Version 2 of three replicas, of which some run when the others begin to fail.
fn lost_midway(extra: &str) -> (World, DeploymentId, DeploymentId) {
    let (mut world, old) = running(3, 1);
    let json = format!(r#"{{"replicas":3,"progress_deadline_secs":60{extra}}}"#);
    let new = world.deploy(&json, Program::Serves);
    world.deliver();
    world.proxy_applies(0, true);
    assert_eq!((world.ready(new), world.ready(old)), (1, 2));
    world.programs.insert(new, Program::Hangs);
    for _ in 0..140 {
        if world.status(new).is_ended() {
            break;
        }
        world.pass(500);
        (0..3).for_each(|index| world.heartbeat(index));
        world.deliver();
        world.proxy_applies(0, true);
    }
    assert_eq!(world.status(new), DeploymentStatus::Failed);
    assert_eq!(world.ready(new), 1, "not drained by its failure");
    assert!(world.ready(old) >= 2);
    (world, old, new)
}

#[test]
fn a_rollout_lost_midway_gives_back_before_it_goes() {
    let (mut world, old, new) = lost_midway("");
    world.reload();
    for _ in 0..20 {
        assert!(world.ready(old) + world.ready(new) >= 3);
        world.calm(1);
    }
    assert_eq!((world.ready(old), world.cluster.tasks_of(new).count()), (3, 0));
    let environment = world.cluster.environment(world.environment).expect("known");
    assert_eq!((environment.current, environment.target), (Some(old), None));
    // One that can't come back is not waited for longer than the progress deadline.
    let (mut world, old, new) = lost_midway("");
    world.programs.insert(old, Program::Hangs);
    world.calm(65);
    assert_eq!(world.cluster.tasks_of(new).count(), 0);
    let environment = world.cluster.environment(world.environment).expect("known");
    assert_eq!((environment.current, environment.target), (Some(old), None));
}

#[test]
fn without_auto_rollback_what_was_healthy_stays_to_be_looked_at_until_it_is_idle() {
    let (mut world, old, new) = lost_midway(r#","auto_rollback":false,"idle_timeout_secs":120"#);
    world.calm(20);
    let environment = world.cluster.environment(world.environment).expect("known");
    assert_eq!(
        (environment.current, environment.target, environment.target_weight),
        (Some(old), None, None),
        "out of the environment's traffic"
    );
    assert_eq!(
        (world.ready(old), world.ready(new)),
        (3, 1),
        "reachable at its preview"
    );
    assert_eq!(
        world.cluster.tasks_of(new).count(),
        1,
        "nothing more of it is started"
    );
    world.reload();
    world.calm(2);
    assert_eq!(world.ready(new), 1);
    world.calm(120);
    let failed = world.cluster.deployment(new).expect("known");
    assert_eq!(
        (
            failed.status,
            failed.reason,
            failed.health,
            world.cluster.tasks_of(new).count()
        ),
        (
            DeploymentStatus::Failed,
            Some(Reason::ProgressDeadline),
            Health::Down,
            0
        )
    );
    // What crashes is not replaced.
    let (mut world, _, new) = lost_midway(r#","auto_rollback":false"#);
    world.calm(10);
    let task = world.cluster.ready_tasks(new).next().expect("one").clone();
    let mut report = super::agents::report(task.id, task.generation, TaskState::Failed);
    report.exit_code = Some(1);
    let node_id = task.node_id.expect("placed");
    world.feed(Event::TaskReports {
        node_id,
        tasks: vec![report],
    });
    assert_eq!(world.cluster.tasks_of(new).count(), 0);
}

#[test]
fn a_node_that_vanishes_while_it_stops_a_task_ends_that_task() {
    let (mut world, id) = running(1, 1);
    let task = world.cluster.tasks_of(id).next().expect("one").clone();
    let index = world
        .agents
        .iter()
        .position(|agent| Some(agent.id) == task.node_id)
        .expect("placed");
    world.ask(OperationKind::Sleep, id);
    world.proxy_applies(0, true);
    assert_eq!(
        world.cluster.task(task.id).map(|task| task.state),
        Some(TaskState::Stopping)
    );
    world.agents[index].up = false;
    world.undelivered.clear();
    world.pass(11_000);
    assert_eq!(world.cluster.tasks_of(id).count(), 0);
    let row = &world.rows.tasks[&task.id];
    assert!(row.state.is_ended() && row.finished_at.is_some());
    assert_eq!(
        world.cluster.deployment(id).expect("known").health,
        Health::Asleep
    );
    // Nobody answers for it either when the leader changed in between.
    let (mut world, id) = running(1, 1);
    world.ask(OperationKind::Sleep, id);
    world.proxy_applies(0, true);
    world.undelivered.clear();
    world.reload();
    world.pass(11_000);
    assert_eq!(world.cluster.tasks_of(id).count(), 0);
}

#[test]
fn an_application_deleted_midway_leaves_nothing() {
    let (mut world, old) = running(2, 1);
    let new = world.deploy(r#"{"replicas":2}"#, Program::Hangs);
    world.deliver();
    for id in [old, new] {
        world.rows.tasks.retain(|_, task| task.deployment_id != id);
        world.rows.deployments.remove(&id);
        world.feed(Event::DeploymentGone(id));
    }
    assert_eq!((world.cluster.tasks().count(), world.current()), (0, None));
    let stops = world
        .undelivered
        .iter()
        .filter(|c| matches!(c, Command::Stop { .. }))
        .count();
    assert!(stops >= 3, "their nodes are told: {stops}");
    world.deliver();
    let left = world.agents.iter().flat_map(|agent| agent.held.values());
    assert_eq!(left.filter(|report| !report.state.is_ended()).count(), 0);
    assert_eq!(world.cluster.rollouts(), 0);
}

#[test]
fn a_cancelled_build_and_a_vanished_artifact_end_their_deployments() {
    let (mut world, old) = running(1, 1);
    let waits = world.deploy_from("{}", Program::Serves, Source::Building);
    world.change(waits, |deployment| {
        deployment.source = Source::BuildFailed {
            message: "its build was cancelled".into(),
        };
    });
    let failed = world.cluster.deployment(waits).expect("known");
    assert_eq!(
        (failed.status, failed.reason, world.current()),
        (DeploymentStatus::Failed, Some(Reason::BuildFailed), Some(old))
    );
    // The order can't be made: its artifact is gone.
    let broken = world.deploy("{}", Program::Hangs);
    world.undelivered.clear();
    for _ in 0..40 {
        let starting: Vec<_> = world.cluster.tasks_of(broken).cloned().collect();
        for task in starting.iter().filter(|task| task.state == TaskState::Starting) {
            let mut report = super::agents::report(task.id, task.generation, TaskState::Failed);
            report.reason = Some(Reason::ArtifactMissing);
            let node_id = task.node_id.expect("placed");
            world.feed(Event::TaskReports {
                node_id,
                tasks: vec![report],
            });
        }
        world.pass(500);
        (0..3).for_each(|index| world.heartbeat(index));
        world.undelivered.clear();
    }
    let failed = world.cluster.deployment(broken).expect("known");
    assert_eq!(
        (failed.status, failed.reason, world.current()),
        (DeploymentStatus::Failed, Some(Reason::ArtifactMissing), Some(old))
    );
}

/// Version 3 replaces version 2, one task at a time, when someone goes back to version 1.
fn going_back_midway() -> (World, [DeploymentId; 3]) {
    let (mut world, first) = running(3, 1);
    let second = world.deploy(r#"{"replicas":3}"#, Program::Serves);
    world.calm(60);
    assert_eq!((world.current(), world.ready(second)), (Some(second), 3));
    let third = world.deploy(r#"{"replicas":3}"#, Program::Serves);
    world.deliver();
    world.proxy_applies(0, true);
    assert_eq!((world.ready(third), world.ready(second)), (1, 2));
    world.ask(OperationKind::Promote, first);
    assert_eq!(world.status(third), DeploymentStatus::Cancelled);
    (world, [first, second, third])
}

#[test]
fn going_back_in_the_midst_of_a_rollout_takes_nothing_away_before_something_is_there() {
    for reloads in [false, true] {
        let (mut world, [first, second, third]) = going_back_midway();
        if reloads {
            world.reload();
        }
        for _ in 0..10 {
            if world.current() == Some(first) {
                break;
            }
            assert!(
                world.ready(second) + world.ready(third) >= 3,
                "one of the cancelled ones still serves"
            );
            world.calm_step(1_000);
        }
        assert_eq!(world.current(), Some(first));
        world.calm(60);
        let ready = [first, second, third].map(|id| world.ready(id));
        assert_eq!(ready, [3, 0, 0]);
        world.ask(OperationKind::Rollback, first);
        world.calm(60);
        assert_eq!(world.current(), Some(second), "what served then");
    }
    // A newer version gets its turn all the same, and what was woken sleeps again.
    let (mut world, [first, ..]) = going_back_midway();
    world.programs.insert(first, Program::Hangs);
    let newest = world.deploy(r#"{"replicas":3}"#, Program::Serves);
    world.calm(90);
    assert_eq!((world.current(), world.ready(newest)), (Some(newest), 3));
    assert_eq!(world.cluster.tasks_of(first).count(), 0);
}

#[test]
fn going_back_ends_what_waits_behind_a_lost_rollout_but_not_what_is_still_built() {
    let (mut world, [first, ..]) = going_back_midway();
    let waiting = world.deploy(r#"{"replicas":3}"#, Program::Serves);
    let remedy = world.deploy_from(r#"{"replicas":3}"#, Program::Serves, Source::Building);
    assert_eq!(world.status(waiting), DeploymentStatus::Pending);
    world.ask(OperationKind::Promote, first);
    assert_eq!(world.status(waiting), DeploymentStatus::Cancelled);
    world.calm(60);
    assert_eq!((world.current(), world.ready(first)), (Some(first), 3));
    world.change(remedy, |row| row.source = Source::Ready);
    world.calm(60);
    assert_eq!((world.current(), world.ready(remedy)), (Some(remedy), 3));
}
