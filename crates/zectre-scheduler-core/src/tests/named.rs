//! Tasks that a leader named to those who waited, and whose readiness it could not save: proxies send them requests, and the
//! rows don't say so. Whoever leads next treats every task that was starting as one of them.

use super::{
    agents::report,
    world::{Program, World},
};
use crate::{Command, Event, Unrouted};
use zectre_common::{
    id::{DeploymentId, TaskId},
    state::{OperationKind, Reason, TaskState, Wanted},
};

/// A task that starts by its row, with a leader that has just read it.
fn starting() -> (World, DeploymentId, TaskId) {
    let mut world = World::new(2, 1);
    let id = world.deploy(r#"{"replicas":1}"#, Program::Serves);
    world.heartbeat(0);
    world.heartbeat(1);
    let task = world.cluster.tasks_of(id).next().expect("one").clone();
    assert_eq!(task.state, TaskState::Starting);
    world.reload();
    (world, id, task.id)
}

fn stops(world: &World, task: TaskId) -> usize {
    let is_stop = |command: &&Command| matches!(command, Command::Stop { task_id, .. } if *task_id == task);
    world.undelivered.iter().filter(is_stop).count()
}

fn node_of(world: &World, task: TaskId) -> usize {
    let node = world.rows.tasks[&task].node_id;
    let mut agents = world.agents.iter();
    agents
        .position(|agent| Some(agent.id) == node)
        .expect("it was placed")
}

#[test]
fn what_may_have_been_named_is_stopped_once_proxies_have_dropped_it() {
    let (mut world, id, task) = starting();
    let epoch = world.epoch;
    world.ask_about(OperationKind::StopTask, id, Some(task));
    assert_eq!(stops(&world, task), 0, "requests may come to it");
    assert_eq!(world.epoch, epoch + 1, "proxies are told to read anew");
    let row = &world.rows.tasks[&task];
    let (wanted, unrouted) = (row.wanted, row.unrouted);
    assert_eq!((wanted, unrouted), (Wanted::Stop, Unrouted::At(epoch + 1)));
    // A third leader knows that from the row.
    world.reload();
    world.pass(500);
    assert_eq!(stops(&world, task), 0);
    // It has requests under way.
    world.proxy_applies(0, false);
    assert_eq!(stops(&world, task), 0);
    world.proxy_applies(0, true);
    assert_eq!(stops(&world, task), 1);
    assert_eq!(world.rows.tasks[&task].state, TaskState::Stopping);
}

#[test]
fn what_this_leader_started_and_nobody_heard_of_is_stopped_at_once() {
    let mut world = World::new(1, 1);
    let id = world.deploy(r#"{"replicas":1}"#, Program::Serves);
    let task = world.cluster.tasks_of(id).next().expect("one").id;
    world.ask_about(OperationKind::StopTask, id, Some(task));
    assert_eq!(stops(&world, task), 1);
}

#[test]
fn a_drain_that_does_not_end_is_bounded() {
    let (mut world, id, task) = starting();
    let (index, generation) = (node_of(&world, task), world.rows.tasks[&task].generation);
    let runs = report(task, generation, TaskState::Running);
    world.agents[index].held.insert(task, runs);
    world.ask_about(OperationKind::StopTask, id, Some(task));
    world.proxy_applies(0, false);
    for _ in 0..31 {
        world.pass(1_000);
        world.heartbeat(index);
        world.proxy_applies(0, false);
    }
    assert!(stops(&world, task) > 0, "its drain time is over");
}

#[test]
fn while_it_drains_it_is_not_started_again_and_its_words_change_nothing() {
    let (mut world, id, task) = starting();
    let (index, generation) = (node_of(&world, task), world.rows.tasks[&task].generation);
    world.ask_about(OperationKind::StopTask, id, Some(task));
    world.undelivered.clear();
    let node_id = world.agents[index].id;
    for state in [TaskState::Starting, TaskState::Running] {
        let told = report(task, generation, state);
        world.feed(Event::TaskReports {
            node_id,
            tasks: vec![told],
        });
        assert_eq!(world.rows.tasks[&task].wanted, Wanted::Stop);
        assert_eq!(world.cluster.tasks_to_tell(id).count(), 0);
    }
    // Its node does not have it, and says so until that is no word from before the order.
    for _ in 0..12 {
        world.pass(1_000);
        world.digest(node_id, Vec::new());
    }
    let again =
        |command: &Command| matches!(command, Command::Start { task: started, .. } if started.id == task);
    assert!(!world.undelivered.iter().any(again));
    assert_eq!(
        world.rows.tasks[&task].state,
        TaskState::Stopped,
        "as it was asked to"
    );
    world.calm(10);
    assert_eq!(world.ready(id), 1, "another one serves in its stead");
}

#[test]
fn proxies_are_told_to_drop_what_ends_before_it_was_ever_routed() {
    let (mut world, _, task) = starting();
    let epoch = world.epoch;
    let mut told = report(task, world.rows.tasks[&task].generation, TaskState::Failed);
    told.reason = Some(Reason::Exited);
    let node_id = world.rows.tasks[&task].node_id.expect("placed");
    world.feed(Event::TaskReports {
        node_id,
        tasks: vec![told],
    });
    // Somebody else may listen on its port soon.
    assert_eq!(world.epoch, epoch + 1);
}

#[test]
fn what_a_lost_node_may_have_had_named_is_stopped_once_proxies_have_dropped_it() {
    let (mut world, id, task) = starting();
    let index = node_of(&world, task);
    let (node_id, generation) = (world.agents[index].id, world.rows.tasks[&task].generation);
    world.proxy_applies(0, true);
    for _ in 0..14 {
        world.pass(1_000);
        world.heartbeat(1 - index);
        world.proxy_renews(0);
    }
    assert_eq!(world.rows.tasks[&task].reason, Some(Reason::NodeLost));
    let held = vec![report(task, generation, TaskState::Running)];
    world.digest(node_id, held.clone());
    assert_eq!(stops(&world, task), 0, "the proxy routes by the epoch before");
    world.proxy_applies(0, true);
    world.digest(node_id, held);
    assert_eq!(stops(&world, task), 1);
    world.calm(10);
    assert_eq!(world.ready(id), 1);
}

/// The same machine joins as a new node in the batch in which the old one is found to be gone: which epoch proxies have to
/// route by is known only once that is saved.
#[test]
fn what_was_lost_with_a_node_in_the_same_batch_waits_for_the_epoch_that_it_raises() {
    let mut world = World::new(1, 1);
    let id = world.deploy(r#"{"replicas":1}"#, Program::Serves);
    world.calm(5);
    let task = world.cluster.tasks_of(id).next().expect("one").id;
    let (old, held) = (world.agents[0].id, world.agents[0].held.clone());
    let new = zectre_common::id::NodeId::from_uuid(uuid::Uuid::from_u128(10));
    // Without the answer to its commit in between.
    let gone = crate::step(&mut world.cluster, Event::NodeGone(old), world.now);
    assert!(gone.contains(&Command::RaiseEpoch));
    let facts = super::world::facts("n0", 1_000, 1_280, 8);
    let joined = Event::NodeRegistered { id: new, facts };
    crate::step(&mut world.cluster, joined, world.now);
    let raised = Event::EpochRaised(world.epoch + 1);
    crate::step(&mut world.cluster, raised, world.now);
    let digest = |world: &World| Event::Heartbeat {
        node_id: new,
        heard_at: world.now,
        tasks: held.values().cloned().collect(),
    };
    let is_stop = |command: &Command| matches!(command, Command::Stop { task_id, .. } if *task_id == task);
    let event = digest(&world);
    let orders = crate::step(&mut world.cluster, event, world.now);
    assert!(!orders.iter().any(is_stop), "the proxy routes to it still");
    let proxy = *world.cluster.proxies().next().expect("one");
    let epoch = world.epoch + 1;
    let applied = crate::Proxy {
        applied_epoch: epoch,
        drained_epoch: epoch,
        ..proxy
    };
    crate::step(&mut world.cluster, Event::ProxyReport(applied), world.now);
    let event = digest(&world);
    let orders = crate::step(&mut world.cluster, event, world.now);
    assert!(orders.iter().any(is_stop));
}
