//! The decisions: `step` takes what happened and the time, changes the [`Cluster`], and says what to do.
//!
//! No I/O, no clock, and no randomness but the cluster's seed: the same events give the same commands.
//! Everything that survives a restart is in the rows that the commands save; the rest (indexes, timers,
//! when an order was last sent) is rebuilt by [`Cluster::load`].

mod acks;
mod canary;
mod cluster;
mod command;
mod confirm;
mod deployment;
mod drain;
mod environment;
mod event;
mod failure;
mod health;
mod ident;
mod job;
mod lease;
mod node;
mod operation;
mod placement;
pub mod planted;
mod progress;
mod read;
mod replicas;
mod report;
mod resting;
mod retreat;
mod rollout;
mod roster;
mod settings;
mod settle;
mod shelf;
mod shelves;
mod shortage;
mod sleep;
mod snapshot;
mod spare;
mod succession;
mod task;
mod timer;
mod waiting;
mod withheld;

#[cfg(test)]
mod tests;

pub use cluster::Cluster;
pub use command::{Command, Happening};
pub use deployment::{Deployment, Source};
pub use drain::Proxy;
pub use environment::Environment;
pub use event::{Event, Operation};
pub use node::{Node, NodeFacts};
pub use settings::{Settings, max_runtime_secs};
pub use sleep::AWAKE;
pub use snapshot::Snapshot;
pub use task::{Task, Unrouted};

use zectre_common::time::Time;

/// Applies one event at `now` and returns what is to be saved, sent and told, in order.
///
/// What has to be sent may be sent only after everything to be saved is committed.
pub fn step(cluster: &mut Cluster, event: Event, now: Time) -> Vec<Command> {
    match event {
        Event::Tick => timer::fire_due(cluster, now),
        Event::Loaded {
            environment,
            deployments,
        } => {
            cluster.insert_environment(environment);
            for deployment in deployments {
                operation::merge_loaded(cluster, deployment, now);
            }
        }
        Event::DeploymentGone(id) => operation::forget_deployment(cluster, id, now),
        Event::Operation(operation) => operation::apply(cluster, &operation, now),
        Event::NodeRegistered { id, facts } => lease::register(cluster, id, facts, now),
        Event::NodeWanted { id, eligibility } => lease::set_eligibility(cluster, id, eligibility, now),
        Event::NodeGone(id) => lease::forget(cluster, id, now),
        Event::Heartbeat {
            node_id,
            heard_at,
            tasks,
        } => report::heartbeat(cluster, node_id, tasks, heard_at, now),
        Event::TaskReports { node_id, tasks } => report::news(cluster, node_id, tasks, now),
        Event::Wake(id) => sleep::wake_on_request(cluster, id, now),
        Event::Activity(seen) => sleep::note_activity(cluster, &seen),
        Event::ProxyReport(proxy) => drain::proxy_report(cluster, proxy, now),
        Event::ProxyGone(id) => drain::proxy_gone(cluster, id, now),
        Event::EpochRaised(epoch) => drain::epoch_raised(cluster, epoch, now),
    }
    settle::settle(cluster, now);
    cluster.flush()
}
