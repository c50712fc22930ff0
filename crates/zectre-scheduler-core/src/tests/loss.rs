//! Nodes that fall silent and come back, and reports that come late, twice or out of order.

use super::{
    agents::report,
    world::{Program, World},
};
use crate::{Command, Event};
use proptest::prelude::*;
use std::time::Duration;
use zectre_common::{
    id::{DeploymentId, TaskId},
    state::{DeploymentStatus, Eligibility, Reason, TaskState},
    wire::agent::TaskReport,
};

fn serving(json: &str) -> (World, DeploymentId) {
    let mut world = World::new(3, 2);
    let id = world.deploy(json, Program::Serves);
    world.calm(5);
    assert_eq!(world.status(id), DeploymentStatus::Succeeded);
    (world, id)
}

#[test]
fn what_a_returned_node_still_runs_is_not_stopped_while_a_proxy_sends_it_requests() {
    let (mut world, id) = serving(r#"{"replicas":1}"#);
    let task = world.cluster.tasks_of(id).next().expect("one").clone();
    let index = world
        .agents
        .iter()
        .position(|agent| Some(agent.id) == task.node_id);
    let index = index.expect("placed");
    // The node is cut off from the scheduler alone; one proxy hears of the loss, the other does not yet.
    world.agents[index].up = false;
    for _ in 0..11 {
        world.pass(1_000);
        (0..3).for_each(|index| world.heartbeat(index));
        world.proxy_applies(0, true);
        world.proxy_renews(1);
    }
    assert_eq!(
        world.rows.tasks[&task.id].reason,
        Some(Reason::NodeLost),
        "given up"
    );
    assert!(world.proxies[1].table.contains(&task.id));
    world.agents[index].up = true;
    let stops = |world: &World| {
        let stop = |c: &&Command| matches!(c, Command::Stop { task_id, .. } if *task_id == task.id);
        world.undelivered.iter().filter(stop).count()
    };
    world.heartbeat(index);
    assert_eq!(stops(&world), 0);
    world.proxy_applies(1, false);
    world.heartbeat(index);
    assert_eq!(stops(&world), 1, "now it is");
    world.calm(10);
    assert_eq!(world.ready(id), 1);
    assert!(!world.agents[index].held.contains_key(&task.id));
}

#[test]
fn draining_moves_a_single_replica_of_any_strategy_without_a_gap() {
    for strategy in ["rolling", "recreate", "blue_green", "canary"] {
        let (mut world, id) = serving(&format!(r#"{{"replicas":1,"strategy":"{strategy}"}}"#));
        let task = world.cluster.tasks_of(id).next().expect("one").clone();
        let node = task.node_id.expect("placed");
        world.feed(Event::NodeWanted {
            id: node,
            eligibility: Eligibility::Draining,
        });
        for _ in 0..30 {
            world.calm_step(500);
            assert!(world.ready(id) >= 1, "{strategy}: the new one comes first");
        }
        assert_eq!(world.cluster.held(node).task_slots, 0, "{strategy}");
        assert_eq!(world.cluster.tasks_of(id).count(), 1, "{strategy}");
    }
}

#[test]
fn draining_waits_for_room_and_goes_on_when_there_is_some() {
    let (mut world, id) = serving(r#"{"replicas":2,"anti_affinity":true,"idle_timeout_secs":0}"#);
    let tasks: Vec<_> = world.cluster.tasks_of(id).cloned().collect();
    let used: Vec<_> = tasks.iter().filter_map(|task| task.node_id).collect();
    let third = world
        .agents
        .iter()
        .map(|agent| agent.id)
        .find(|id| !used.contains(id));
    let third = third.expect("three nodes");
    let set = |world: &mut World, id, eligibility| world.feed(Event::NodeWanted { id, eligibility });
    set(&mut world, third, Eligibility::Cordoned);
    set(&mut world, used[0], Eligibility::Draining);
    world.calm(400);
    assert_eq!(
        world.ready(id),
        2,
        "nothing is stopped for which there is no other place"
    );
    assert!(world.cluster.held(used[0]).task_slots > 0);
    set(&mut world, third, Eligibility::Eligible);
    world.calm(20);
    assert_eq!((world.ready(id), world.cluster.held(used[0]).task_slots), (2, 0));
}

#[test]
fn a_deleted_node_is_replaced_and_its_late_words_are_nobodys() {
    let (mut world, id) = serving(r#"{"replicas":3}"#);
    let gone = world.agents[0].id;
    world.rows.nodes.remove(&gone);
    world.feed(Event::NodeGone(gone));
    let tasks = world.agents[0].held.values().cloned().collect();
    world.digest(gone, tasks);
    assert!(world.cluster.node(gone).is_none());
    world.agents.remove(0);
    world.calm(10);
    assert_eq!(world.ready(id), 3);
    assert!(world.cluster.tasks_of(id).all(|task| task.node_id != Some(gone)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Old digests and reports, in any order and any number of times, take nothing back and end nothing.
    #[test]
    fn old_words_change_nothing(picks in prop::collection::vec(any::<prop::sample::Index>(), 1..30)) {
        let (mut world, id) = serving(r#"{"replicas":3}"#);
        let mut old: Vec<Event> = Vec::new();
        for agent in &world.agents {
            let heard_at = world.now;
            old.push(Event::Heartbeat { node_id: agent.id, heard_at, tasks: agent.held.values().cloned().collect() });
            for held in agent.held.values() {
                let starting = report(held.task_id, held.generation, TaskState::Starting);
                old.push(Event::TaskReports { node_id: agent.id, tasks: vec![starting] });
                old.push(Event::TaskReports { node_id: agent.id, tasks: vec![held.clone()] });
            }
        }
        let before: Vec<TaskId> = world.cluster.tasks_of(id).map(|task| task.id).collect();
        world.calm(6);
        for pick in picks {
            world.feed(pick.get(&old).clone());
        }
        let after: Vec<TaskId> = world.cluster.tasks_of(id).map(|task| task.id).collect();
        prop_assert_eq!((before, world.ready(id)), (after, 3));
        let orders = world.undelivered.iter().filter(|c| matches!(c, Command::Start { .. } | Command::Stop { .. }));
        prop_assert_eq!(orders.count(), 0);
    }
}

/// A node waits for the newest epoch of what it lost, also when it waits for an earlier one already: here for that of a
/// new leader's beginning, which one proxy has and the others, whose leases end, have not.
#[test]
fn what_a_lost_node_runs_is_not_stopped_by_the_word_of_an_earlier_epoch() {
    let mut world = World::new(3, 1);
    let id = world.deploy(r#"{"replicas":0,"idle_timeout_secs":120}"#, Program::Serves);
    world.calm(3);
    world.add_proxy();
    // The new leader takes what it finds for known to proxies by this epoch; the first proxy is behind it.
    world.reload();
    world.heartbeat(1);
    world.wake(id);
    world.deliver();
    let task = world.cluster.tasks_of(id).next().expect("it was woken").clone();
    let index = world
        .agents
        .iter()
        .position(|agent| Some(agent.id) == task.node_id);
    assert_eq!(index, Some(1), "the node that was heard");
    world.feed(Event::NodeWanted {
        id: world.agents[1].id,
        eligibility: Eligibility::Draining,
    });
    world.add_proxy();
    // Everyone is silent for so long that it is excused once.
    world.pass(11_251);
    world.proxy_applies(1, false);
    assert!(world.proxies[1].table.contains(&task.id));
    world.pass(500);
    world.heartbeat(2);
    // Its successor took over, so it left the routing; the second proxy hasn't heard of that.
    world.deliver();
    assert!(!world.rows.tasks[&task.id].routed);
    // The nodes are lost, and the leases of the other proxies end; then all are heard again.
    world.calm(130);
    let held = world.agents.iter().flat_map(|agent| agent.held.values());
    assert_eq!(
        held.filter(|report| report.state == TaskState::Running).count(),
        world.cluster.tasks().count(),
        "and in the end it is gone"
    );
}

/// Nobody waits for a second heartbeat when everything starts anew.
#[test]
fn a_start_that_got_lost_with_its_leader_or_its_agent_is_ordered_again_by_the_first_digest() {
    for is_reloaded in [true, false] {
        let mut world = World::new(1, 0);
        world.agents[0].up = false;
        let id = world.deploy("{}", Program::Serves);
        world.deliver();
        if is_reloaded {
            world.reload();
        } else {
            let node = world.cluster.node(world.agents[0].id).expect("it joined");
            let (id, facts) = (node.id, node.facts.clone());
            world.feed(Event::NodeRegistered { id, facts });
        }
        world.agents[0].up = true;
        world.pass(10);
        world.heartbeat(0);
        // One that was sent a moment ago is on its way.
        world.heartbeat(0);
        let starts = |command: &&Command| matches!(command, Command::Start { .. });
        assert_eq!(
            world.undelivered.iter().filter(starts).count(),
            1,
            "{is_reloaded}"
        );
        world.deliver();
        assert_eq!(world.status(id), DeploymentStatus::Succeeded, "{is_reloaded}");
    }
}

/// Time in which there is no platform is not that of a start.
#[test]
fn a_start_that_the_platform_went_down_before_is_not_given_up_hours_later() {
    let mut world = World::new(1, 0);
    let id = world.deploy("{}", Program::Serves);
    world.calm(5);
    // Its node's agent stops, in order: another one is wanted in its place, of which that agent hears no more.
    let task = world.cluster.tasks_of(id).next().expect("one").clone();
    world.agents[0].held.clear();
    world.agents[0].up = false;
    let stopped = TaskReport {
        reason: Some(Reason::Stopped),
        ..report(task.id, task.generation, TaskState::Stopped)
    };
    world.feed(Event::TaskReports {
        node_id: world.agents[0].id,
        tasks: vec![stopped],
    });
    world.deliver();
    world.now = world.now.plus(Duration::from_hours(2));
    world.reload();
    world.pass(1);
    world.agents[0].up = true;
    world.heartbeat(0);
    world.deliver();
    let failed: Vec<_> = world
        .rows
        .tasks
        .values()
        .filter(|task| task.state == TaskState::Failed)
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(world.cluster.tasks_of(id).any(crate::Task::is_ready));
}
