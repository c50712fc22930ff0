//! Rows as columns of equal length, for UNNEST.

use crate::core::{Deployment, Environment, Happening, Node, Task, Unrouted};
use std::marker::PhantomData;
use zectre_common::{
    id::{ApplicationId, ArtifactId, DeploymentId, EnvironmentId, EventId, NodeId, TaskId},
    state::Reason,
    time::Time,
};

/// A struct of vectors, and how one row fills them.
macro_rules! columns {
    ($name:ident of $row:ident: $kind:ty { $($column:ident: $type:ty = $value:expr,)* }) => {
        #[derive(Default)]
        pub(super) struct $name<'a> {
            $(pub(super) $column: Vec<$type>,)*
            rows: PhantomData<&'a $kind>,
        }

        impl<'a> $name<'a> {
            pub(super) fn of(rows: impl ExactSizeIterator<Item = &'a $kind>) -> Self {
                let mut columns = Self {
                    $($column: Vec::with_capacity(rows.len()),)*
                    rows: PhantomData,
                };
                for $row in rows {
                    $(columns.$column.push($value);)*
                }
                columns
            }
        }
    };
}

columns!(TaskColumns of t: Task {
    ids: TaskId = t.id,
    deployments: DeploymentId = t.deployment_id,
    slots: i32 = t.slot as i32,
    nodes: Option<NodeId> = t.node_id,
    states: &'a str = t.state.as_str(),
    wanted: &'a str = t.wanted.as_str(),
    reasons: Option<&'a str> = t.reason.map(Reason::as_str),
    messages: Option<&'a str> = t.message.as_deref(),
    generations: i64 = t.generation as i64,
    addresses: Option<&'a str> = t.address.as_deref(),
    ports: Option<i32> = t.port.map(i32::from),
    healthy: bool = t.healthy,
    routed: bool = t.routed,
    awaited: bool = t.unrouted == Unrouted::Awaited,
    epochs: Option<i64> = match t.unrouted {
        Unrouted::No | Unrouted::Awaited => None,
        Unrouted::At(epoch) => Some(epoch as i64),
    },
    drains: Option<Time> = t.drain_until,
    restarts: i32 = t.restarts as i32,
    not_before: Option<Time> = t.not_before,
    exit_codes: Option<i32> = t.exit_code,
    signals: Option<i32> = t.signal,
    phases: Option<String> = t.phases.as_ref().and_then(json),
    created: Time = t.created_at,
    started: Option<Time> = t.started_at,
    running: Option<Time> = t.running_at,
    finished: Option<Time> = t.finished_at,
});

columns!(DeploymentColumns of d: Deployment {
    ids: DeploymentId = d.id,
    artifacts: Option<ArtifactId> = d.artifact_id,
    statuses: &'a str = d.status.as_str(),
    reasons: Option<&'a str> = d.reason.map(Reason::as_str),
    messages: Option<&'a str> = d.message.as_deref(),
    evidence: Option<String> = d.evidence.as_ref().and_then(json),
    health: &'a str = d.health.as_str(),
    asleep: bool = d.asleep,
    previous: Option<DeploymentId> = d.previous_id,
    rollouts: Option<Time> = d.rollout_started_at,
    finished: Option<Time> = d.finished_at,
    promoted: Option<Time> = d.promoted_at,
});

columns!(EnvironmentColumns of e: Environment {
    ids: EnvironmentId = e.id,
    currents: Option<DeploymentId> = e.current,
    targets: Option<DeploymentId> = e.target,
    weights: Option<i16> = e.target_weight.map(i16::from),
});

columns!(NodeColumns of n: Node {
    ids: NodeId = n.id,
    names: &'a str = n.facts.name.as_str(),
    addresses: &'a str = n.facts.address.as_str(),
    actions_ports: i32 = i32::from(n.facts.actions_port),
    labels: Option<String> = json(&n.facts.labels),
    cpus: i64 = i64::from(n.facts.capacity.cpu.0),
    memories: i64 = n.facts.capacity.memory.0 as i64,
    slots: i32 = n.facts.capacity.task_slots as i32,
    port_mins: i32 = i32::from(n.facts.port_min),
    port_maxs: i32 = i32::from(n.facts.port_max),
    containers: bool = n.facts.container_enabled,
    enforcements: Option<String> = json(&n.facts.enforcement),
    statuses: &'a str = n.status.as_str(),
    leases: Time = n.lease_expires_at,
    registered: Time = n.registered_at,
});

columns!(EventColumns of row: (Time, Happening) {
    ids: EventId = EventId::new(),
    times: Time = row.0,
    actors: &'a str = row.1.actor.as_deref().unwrap_or(zectre_service::token::name::SCHEDULER),
    actions: &'a str = row.1.action,
    applications: Option<ApplicationId> = row.1.application_id,
    deployments: Option<DeploymentId> = row.1.deployment_id,
    tasks: Option<TaskId> = row.1.task_id,
    nodes: Option<NodeId> = row.1.node_id,
    messages: &'a str = row.1.message.as_str(),
    reasons: Option<&'a str> = row.1.reason.map(Reason::as_str),
    requests: Option<&'a str> = row.1.request_id.as_deref(),
});

columns!(WakeColumns of row: ((NodeId, Time), i64) {
    nodes: NodeId = row.0.0,
    steps: Time = row.0.1,
    counts: i64 = row.1,
});

/// A value as JSON text. Ours always serialise; a row is not worth a panic if that were ever wrong.
fn json<T: serde::Serialize>(value: &T) -> Option<String> {
    serde_json::to_string(value).ok()
}
