//! schedule: how fast tasks get a node and a port, durably, and how long one decision takes in a large cluster.
//!
//! The real `zectre-scheduler` as a process of its own, a real PostgreSQL with fsync, and agents as HTTP endpoints
//! (see [`fleet`]). Goals: 1,000,000 tasks on 5,000 nodes in 60 s on 2 cores, PostgreSQL included; the 99th percentile
//! of a decision within 50 ms at 10,000 nodes.

mod cluster;
mod fleet;
mod store;

use crate::{options::Options, report::Report, sample::Samples};
use cluster::{Cluster, Pace};
use std::time::{Duration, Instant};
use store::Seed;
use zectre_testkit::wait_until;

/// How long a phase may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_mins(20);
/// Single decisions that are measured.
const DECISIONS: usize = 500;

/// Both parts.
pub(crate) async fn run(options: &Options) -> Report {
    let mut report = Report::new(
        "schedule",
        "the real scheduler and a real PostgreSQL (fsync on), agents as HTTP endpoints in one process, all on this machine",
        "goals: 1,000,000 tasks on 5,000 nodes durably placed in ≤ 60 s; p99 of a decision ≤ 50 ms at 10,000 nodes",
    );
    place(options, &mut report).await;
    decide(options, &mut report).await;
    report
}

/// All tasks at once.
async fn place(options: &Options, report: &mut Report) {
    let seed = Seed {
        nodes: options.nodes,
        tasks: options.tasks / options.replicas * options.replicas,
        replicas: options.replicas,
        actions_port: 0,
    };
    // Nomad spaces the heartbeats of so many nodes much further apart: at most 50 a second.
    let pace = Pace {
        heartbeat: Duration::from_secs(20),
        lease: Duration::from_mins(2),
    };
    let mut cluster = Cluster::start(&seed, pace).await;
    let (before, began) = (cluster.cpu(), Instant::now());
    cluster.nudge().await;
    wait_until(PATIENCE, "every task is ordered", async || {
        (cluster.fleet.ordered().0 >= seed.tasks).then_some(())
    })
    .await;
    let placing = began.elapsed();
    let rate = seed.tasks as f64 / placing.as_secs_f64();
    let cpu = cluster.cpu().since(&before);
    let placed = store::placed(&cluster.pool, "starting").await;
    assert_eq!(placed, seed.tasks as i64, "each has a node and a port of its own");
    report.note(format!(
        "{} tasks ({} deployments of {} replicas) on {} nodes: each placed, committed and its order accepted by its node after \
         **{:.1} s, {rate:.0}/s**. CPU: {cpu}.",
        seed.tasks, seed.tasks / seed.replicas, seed.replicas, seed.nodes, placing.as_secs_f64(),
    ));
    report.note(format!(
        "| platform | tasks per second | machines of the control plane |\n|---|---|---|\n| Zectre, here | {rate:.0} | one, 2 cores, with PostgreSQL and all agents on it |\n\
         | Nomad, published (HashiCorp, \"The Million Container Challenge\") | 3750 | five servers |\n\
         | Kubernetes, published (floor of its scheduler's throughput) | 810 | – |"
    ));
    let began = Instant::now();
    cluster.fleet.run_all().await;
    let running = began.elapsed();
    wait_until(PATIENCE, "every task runs", async || {
        (store::placed(&cluster.pool, "running").await >= seed.tasks as i64).then_some(())
    })
    .await;
    report.note(format!(
        "Then every node reported its tasks as running, in one message each: routed, told to the proxies' epoch and in the activity feed, \
         committed after {:.1} s, {:.0}/s.",
        running.as_secs_f64(),
        seed.tasks as f64 / running.as_secs_f64()
    ));
    let (beats, failed) = cluster.fleet.take_beats();
    report.note(format!(
        "Meanwhile: {} heartbeats (one per node each {} s, full digest), answered within {:.0} ms (p50) and {:.0} ms (p99), {failed} not \
         answered; {} orders came twice. Peak memory: scheduler {:.0} MiB ({:.0} bytes a task).",
        beats.len(),
        pace.heartbeat.as_secs(),
        beats.percentile_ms(50),
        beats.percentile_ms(99),
        cluster.fleet.ordered().1,
        cluster.peak_mib(),
        cluster.peak_mib() * 1_048_576.0 / seed.tasks as f64,
    ));
    let took = cluster.take_over().await;
    report.note(format!(
        "`kill -9` of the scheduler with all of that: another one leads and answers after {:.1} s, most of it reading the state.",
        took.as_secs_f64()
    ));
}

/// One at a time, while every node sends its heartbeats.
async fn decide(options: &Options, report: &mut Report) {
    let seed = Seed {
        nodes: options.decision_nodes,
        tasks: options.decision_nodes * 10,
        replicas: 10,
        actions_port: 0,
    };
    let pace = Pace {
        heartbeat: options.heartbeat,
        lease: options.heartbeat * 10,
    };
    let cluster = Cluster::start(&seed, pace).await;
    cluster.nudge().await;
    wait_until(PATIENCE, "every task is ordered", async || {
        (cluster.fleet.ordered().0 >= seed.tasks).then_some(())
    })
    .await;
    cluster.fleet.run_all().await;
    let _ = cluster.fleet.take_beats();
    let counted = cluster.decisions().await;
    let (before, began) = (cluster.cpu(), Instant::now());
    let mut committed = Samples::default();
    for index in 0..DECISIONS {
        let id = cluster.deployments[index * 7 % cluster.deployments.len()];
        store::scale_up(&cluster.pool, id).await;
        let asked = Instant::now();
        cluster.nudge().await;
        committed.push(asked.elapsed());
    }
    let (elapsed, cpu) = (began.elapsed(), cluster.cpu().since(&before));
    let (beats, failed) = cluster.fleet.take_beats();
    let decided = cluster.decisions().await.since(&counted);
    report.note(format!(
        "{} nodes with {} tasks, a heartbeat of each every {:.1} s ({:.0}/s): {DECISIONS} times one replica more, from the call until \
         the placement is committed p50 {:.1} ms, **p99 {:.1} ms**; the decision alone, with its wait in the queue: {decided}. Heartbeats were \
         answered within {:.1} ms (p50) and {:.1} ms (p99), {failed} not. CPU over {:.1} s: {cpu}.",
        seed.nodes,
        seed.tasks,
        pace.heartbeat.as_secs_f64(),
        beats.len() as f64 / elapsed.as_secs_f64(),
        committed.percentile_ms(50),
        committed.percentile_ms(99),
        beats.percentile_ms(50),
        beats.percentile_ms(99),
        elapsed.as_secs_f64(),
    ));
}
