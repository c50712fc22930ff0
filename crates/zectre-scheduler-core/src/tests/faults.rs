//! What the simulator found: words that come too late, rows that say less than what is true, and a leader that did
//! not listen.

use super::{
    agents::report,
    world::{Program, World, settings},
};
use crate::{Cluster, Command, Event, Node, Operation, Proxy, Source, Task, step};
use std::time::Duration;
use zectre_common::{
    id::{NodeId, TaskId},
    state::{DeploymentStatus, NodeStatus, OperationKind, Reason, TaskState},
};

fn running(replicas: u32) -> (World, TaskId) {
    let mut world = World::new(1, 1);
    let id = world.deploy(&format!(r#"{{"replicas":{replicas}}}"#), Program::Serves);
    world.calm(5);
    let task = world.cluster.tasks_of(id).next().expect("one").id;
    (world, task)
}

#[test]
fn a_proxy_report_that_waited_too_long_takes_nothing_back() {
    let (mut world, _) = running(1);
    let proxy = *world.cluster.proxies().next().expect("one");
    let late = Proxy {
        lease_expires_at: world.now,
        applied_epoch: 0,
        drained_epoch: 0,
        ..proxy
    };
    world.feed(Event::ProxyReport(late));
    assert_eq!(world.cluster.proxies().copied().collect::<Vec<_>>(), [proxy]);
    let overtaken = Proxy {
        lease_expires_at: world.now.plus(Duration::from_millis(1)),
        ..late
    };
    world.feed(Event::ProxyReport(overtaken));
    assert_eq!(world.cluster.proxies().copied().collect::<Vec<_>>(), [proxy]);
}

#[test]
fn nothing_is_placed_on_a_node_before_its_first_digest() {
    let (mut world, _) = running(1);
    let node = world.agents[0].id;
    world.reload();
    let waits = world.deploy(r#"{"strategy":"blue_green"}"#, Program::Serves);
    let placed = |world: &World| world.cluster.tasks_of(waits).any(|task| task.node_id.is_some());
    assert!(
        !placed(&world),
        "what it runs beside its tasks isn't known to this leader"
    );
    // A task of an earlier time holds a port.
    let stranger = report(TaskId::from_uuid(uuid::Uuid::from_u128(9)), 1, TaskState::Running);
    let mut tasks: Vec<_> = world.agents[0].held.values().cloned().collect();
    tasks.push(stranger);
    world.digest(node, tasks);
    assert!(!placed(&world));
    world.heartbeat(0);
    assert!(placed(&world));
    // A node that is new, or here again under a new id.
    let mut world = World::new(0, 0);
    let waits = world.deploy("{}", Program::Serves);
    let id = NodeId::from_uuid(uuid::Uuid::from_u128(10));
    let facts = super::world::facts("n", 1_000, 1_280, 8);
    world.feed(Event::NodeRegistered { id, facts });
    assert!(world.cluster.tasks_of(waits).all(|task| task.node_id.is_none()));
    world.digest(id, Vec::new());
    assert!(world.cluster.tasks_of(waits).any(|task| task.node_id == Some(id)));
}

#[test]
fn a_digest_that_the_news_of_an_end_overtook_closes_no_node() {
    let (mut world, task) = running(1);
    let node_id = world.agents[0].id;
    let digest: Vec<_> = world.agents[0].held.values().cloned().collect();
    assert_eq!(world.crash(0), Some(task));
    world.undelivered.clear();
    world.digest(node_id, digest.clone());
    let takes_tasks = |world: &World| world.cluster.node(node_id).is_some_and(Node::takes_tasks);
    assert!(
        takes_tasks(&world),
        "whoever waits for room would be told that there is none"
    );
    let is_stop = |command: &Command| matches!(command, Command::Stop { .. });
    assert!(
        !world.undelivered.iter().any(is_stop),
        "nothing is there to be stopped"
    );
    // The next one was made after that: what it shows is there.
    world.proxy_applies(0, true);
    world.digest(node_id, digest);
    assert!(!takes_tasks(&world) && world.undelivered.iter().any(is_stop));
}

#[test]
fn a_digest_that_waited_behind_a_commit_loses_no_task_that_started_meanwhile() {
    let (mut world, task) = running(1);
    let node_id = world.agents[0].id;
    let running_at = world.cluster.task(task).and_then(|task| task.running_at);
    // Made before the task was there, it arrived soon after the news that it runs, and is looked at much later.
    world.calm(20);
    world.feed(Event::Heartbeat {
        node_id,
        heard_at: running_at.expect("it runs").plus(Duration::from_secs(3)),
        tasks: Vec::new(),
    });
    assert_eq!(
        world.cluster.task(task).map(|task| task.state),
        Some(TaskState::Running)
    );
    // One that arrives now was made long after.
    world.digest(node_id, Vec::new());
    assert_eq!(world.rows.tasks[&task].reason, Some(Reason::NodeLost));
}

#[test]
fn a_stop_that_an_agent_accepted_and_forgot_is_ordered_again() {
    let (mut world, task) = running(1);
    let deployment = world.cluster.task(task).expect("it runs").deployment_id;
    world.ask(OperationKind::Sleep, deployment);
    world.proxy_applies(0, true);
    let stopping = world.cluster.task(task).expect("it stops").clone();
    assert_eq!(stopping.state, TaskState::Stopping);
    world.undelivered.clear();
    world.pass(2_000);
    // The agent ended between taking the order and writing down that the task is to stop.
    let mut goes_on = report(task, stopping.generation, TaskState::Running);
    goes_on.healthy = true;
    let node_id = stopping.node_id.expect("placed");
    world.digest(node_id, vec![goes_on]);
    let newer = |command: &Command| {
        matches!(command, Command::Stop { task_id, generation, .. }
            if *task_id == task && *generation > stopping.generation)
    };
    assert!(
        world.undelivered.iter().any(newer),
        "an agent obeys only what is newer"
    );
}

#[test]
fn a_leader_that_stood_still_blames_nobody() {
    let (mut world, task) = running(1);
    world.pass(60_000);
    let node = world.cluster.nodes().next().expect("one");
    assert_eq!(node.status, NodeStatus::Ready);
    assert_eq!(world.cluster.proxies().count(), 1);
    assert!(world.cluster.task(task).is_some());
    // Who is silent from then on is lost as ever.
    for _ in 0..11 {
        world.pass(1_000);
    }
    let node = world.cluster.nodes().next().expect("one");
    assert_eq!(node.status, NodeStatus::Lost);
}

#[test]
fn a_task_whose_node_vanished_while_it_was_placed_ends() {
    let (mut world, task) = running(1);
    // The row of the node was deleted in between: the task's row names none.
    world.rows.tasks.get_mut(&task).expect("a row").node_id = None;
    let (snapshot, now) = (world.snapshot(), world.now);
    let mut cluster = Cluster::load(settings(), 9, snapshot, now);
    let ends = |command: &Command| matches!(command, Command::SaveTask(row) if row.id == task && row.state.is_ended());
    assert!(step(&mut cluster, Event::Tick, now).iter().any(ends));
    assert!(cluster.task(task).is_none());
}

#[test]
fn an_operation_that_was_applied_by_the_leader_before_has_no_second_effect() {
    let (world, task) = running(1);
    let mut snapshot = world.snapshot();
    snapshot.applied = vec![7];
    let mut cluster = Cluster::load(settings(), 9, snapshot, world.now);
    step(&mut cluster, Event::Tick, world.now);
    let restart = |id| {
        Event::Operation(Operation {
            id,
            kind: OperationKind::Restart,
            deployment_id: world.cluster.task(task).map(|task| task.deployment_id),
            task_id: None,
            node_id: None,
            actor: "user:test".into(),
            request_id: None,
        })
    };
    assert_eq!(step(&mut cluster, restart(7), world.now), []);
    assert!(!step(&mut cluster, restart(8), world.now).is_empty());
}

#[test]
fn what_a_lost_rollout_was_to_restart_is_not_started_and_its_reason_stays() {
    let mut world = World::new(1, 1);
    let version = |cpu: &str| {
        format!(
            r#"{{"replicas":4,"idle_timeout_secs":0,"progress_deadline_secs":30,"resources":{{"cpu":"{cpu}"}},
                "strategy":{{"type":"rolling","max_surge":1,"max_unavailable":1}}}}"#
        )
    };
    let old = world.deploy(&version("200m"), Program::Serves);
    world.calm(10);
    assert_eq!(world.ready(old), 4);
    // Two of it fit beside what the old one may not give up.
    let new = world.deploy(&version("300m"), Program::Serves);
    world.calm(10);
    assert_eq!(
        (world.ready(new), world.status(new)),
        (2, DeploymentStatus::Running)
    );
    world.ask(OperationKind::Restart, new);
    let is_placed = |task: &&Task| task.deployment_id == new && task.started_at.is_some();
    for _ in 0..60 {
        world.calm_step(1_000);
        let row = &world.rows.deployments[&new];
        if row.status == DeploymentStatus::Failed {
            assert_eq!(row.reason, Some(Reason::NoCapacity));
            assert!(row.message.is_some());
        }
        assert_eq!(world.rows.tasks.values().filter(is_placed).count(), 2);
    }
    assert_eq!(world.status(new), DeploymentStatus::Failed);
    assert_eq!((world.ready(old), world.cluster.tasks_of(new).count()), (4, 0));
}

#[test]
fn what_an_earlier_wish_brings_back_is_deleted_with_its_environment() {
    let (mut world, _) = running(1);
    let old = world.current().expect("it serves");
    let new = world.deploy(r#"{"idle_timeout_secs":0}"#, Program::Serves);
    world.calm(10);
    assert_eq!(world.current(), Some(new));
    // Whoever deletes the application knows of nothing but what serves.
    world.ask(OperationKind::Rollback, new);
    world.ask(OperationKind::Delete, new);
    world.calm(10);
    assert_eq!(world.current(), None);
    for gone in [old, new] {
        assert_eq!(world.cluster.tasks_of(gone).count(), 0);
    }
}

#[test]
fn a_digest_from_before_a_node_was_lost_does_not_show_what_was_started_on_it_last() {
    let (mut world, _) = running(1);
    let node_id = world.agents[0].id;
    // A start is on its way when the node is lost, and the node takes it afterwards.
    world.agents[0].up = false;
    let waits = world.deploy(r#"{"strategy":"blue_green"}"#, Program::Serves);
    world.undelivered.clear();
    world.pass(11_000);
    world.proxy_applies(0, true);
    assert_eq!(
        world.cluster.node(node_id).map(|node| node.status),
        Some(NodeStatus::Lost)
    );
    let placed = |world: &World| world.cluster.tasks_of(waits).any(|task| task.node_id.is_some());
    world.digest(node_id, Vec::new());
    assert_eq!(
        world.cluster.node(node_id).map(|node| node.status),
        Some(NodeStatus::Ready)
    );
    assert!(!placed(&world), "nobody knows yet what is there");
    world.pass(9_000);
    world.digest(node_id, Vec::new());
    assert!(placed(&world));
}

#[test]
fn an_older_version_that_is_heard_of_after_a_newer_one_does_not_displace_it() {
    // While the newer one is rolled out, and when it serves.
    for secs in [0, 10] {
        let (mut world, _) = running(1);
        let older = world.deployment("{}", Program::Serves, Source::Ready).id;
        let newer = world.deployment("{}", Program::Serves, Source::Ready).id;
        // A request brings the newer row before either deploy is heard of.
        world.wake(newer);
        world.calm(secs);
        world.ask(OperationKind::Deploy, older);
        world.ask(OperationKind::Deploy, newer);
        assert_eq!(world.rows.deployments[&older].reason, Some(Reason::Superseded));
        world.calm(10);
        assert_eq!(world.current(), Some(newer));
        assert_eq!(world.cluster.tasks_of(older).count(), 0);
    }
}

#[test]
fn a_run_to_completion_supersedes_no_older_server() {
    let mut world = World::new(1, 1);
    let server = world.deploy_from("{}", Program::Serves, Source::Building);
    let job = world.deploy(r#"{"restart":"never"}"#, Program::Exits(0));
    world.calm(5);
    assert_eq!(world.current(), Some(job), "nothing serves");
    world.change(server, |row| row.source = Source::Ready);
    world.calm(5);
    assert_eq!(world.current(), Some(server));
}

#[test]
fn what_a_machine_runs_that_joins_anew_is_stopped_once_proxies_know_that_it_is_lost() {
    let (mut world, task) = running(1);
    let old = world.agents[0].id;
    let held: Vec<_> = world.agents[0].held.values().cloned().collect();
    // Its row was deleted, which nobody has read yet.
    let new = NodeId::from_uuid(uuid::Uuid::from_u128(10));
    let facts = super::world::facts("n0", 1_000, 1_280, 8);
    world.feed(Event::NodeRegistered { id: new, facts });
    assert!(world.cluster.node(old).is_none());
    assert_eq!(world.rows.tasks[&task].reason, Some(Reason::NodeLost));
    let is_stop = |command: &Command| matches!(command, Command::Stop { task_id, .. } if *task_id == task);
    world.digest(new, held.clone());
    assert!(!world.undelivered.iter().any(is_stop), "requests come to it");
    world.proxy_applies(0, false);
    world.digest(new, held);
    assert!(world.undelivered.iter().any(is_stop));
}

#[test]
fn what_is_taken_back_into_the_routing_is_told_of_once_that_is_saved() {
    let (mut world, task) = running(1);
    let id = world.cluster.task(task).expect("it runs").deployment_id;
    world.ask(OperationKind::Sleep, id);
    let to_tell = |world: &World| world.cluster.tasks_to_tell(id).count();
    let is_ready = |command: &Command| *command == Command::Ready(id);
    let commands = step(&mut world.cluster, Event::Wake(id), world.now);
    assert_eq!(world.ready(id), 1, "it had only begun to drain");
    // Whoever leads after a commit that failed goes on with its stop.
    assert!(!commands.iter().any(is_ready) && to_tell(&world) == 0);
    let commands = step(&mut world.cluster, Event::EpochRaised(world.epoch + 1), world.now);
    assert!(commands.iter().any(is_ready) && to_tell(&world) == 1);
}
