//! Rows into the core's state: all that lives, for a new leader, or some deployments by id.

use super::Store;
use crate::core::{Deployment, Environment, Node, NodeFacts, Snapshot, Source, Task, Unrouted};
use sqlx::types::Json;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use zectre_common::{
    id::{ApplicationId, ArtifactId, DeploymentId, EnvironmentId, NodeId, TaskId},
    quantity::{CpuMillis, MemoryBytes},
    spec::{DeploymentSpec, Labels},
    state::{BuildStatus, DeploymentStatus, Eligibility, Health, NodeStatus, Reason, TaskState, Wanted},
    time::Time,
    wire::{
        deployment::Evidence,
        node::{Capacity, Enforcement},
        task::Phases,
    },
};

struct DeploymentRow {
    id: DeploymentId,
    application_id: ApplicationId,
    environment_id: EnvironmentId,
    version: i32,
    spec: Json<DeploymentSpec>,
    image: Option<String>,
    artifact_id: Option<ArtifactId>,
    artifact_ready: bool,
    build_status: Option<BuildStatus>,
    build_message: Option<String>,
    replicas: i32,
    idle_timeout_secs: i32,
    cold_start_enabled: bool,
    status: DeploymentStatus,
    reason: Option<Reason>,
    message: Option<String>,
    evidence: Option<Json<Evidence>>,
    health: Health,
    asleep: bool,
    previous_id: Option<DeploymentId>,
    created_at: Time,
    rollout_started_at: Option<Time>,
    promoted_at: Option<Time>,
    finished_at: Option<Time>,
    idle_ms: Option<i64>,
    rollout_failures: i64,
    completed: Vec<i32>,
}

impl DeploymentRow {
    fn source(&self) -> Source {
        if self.image.is_some() || (self.artifact_id.is_some() && self.artifact_ready) {
            return Source::Ready;
        }
        match self.build_status {
            Some(BuildStatus::Queued | BuildStatus::Running) => Source::Building,
            Some(BuildStatus::Failed | BuildStatus::Cancelled) => Source::BuildFailed {
                message: self
                    .build_message
                    .clone()
                    .unwrap_or_else(|| "its build was cancelled".into()),
            },
            Some(BuildStatus::Succeeded) | None => Source::Missing,
        }
    }

    fn into_deployment(self) -> Deployment {
        Deployment {
            source: self.source(),
            id: self.id,
            application_id: self.application_id,
            environment_id: self.environment_id,
            version: self.version as u32,
            spec: Arc::new(self.spec.0),
            artifact_id: self.artifact_id,
            replicas: self.replicas as u32,
            idle_timeout_secs: self.idle_timeout_secs as u32,
            cold_start_enabled: self.cold_start_enabled,
            status: self.status,
            reason: self.reason,
            message: self.message,
            evidence: self.evidence.map(|evidence| evidence.0),
            health: self.health,
            asleep: self.asleep,
            previous_id: self.previous_id,
            created_at: self.created_at,
            rollout_started_at: self.rollout_started_at,
            promoted_at: self.promoted_at,
            finished_at: self.finished_at,
            last_active_at: self.idle_ms.map(super::hints::ago),
            rollout_failures: self.rollout_failures as u32,
            completed: self.completed.into_iter().map(|slot| slot as u32).collect(),
            backoff: BTreeMap::new(),
        }
    }
}

impl Store {
    /// Everything that lives: what a new leader begins with. Proxies and the routing epoch are read after it.
    pub async fn load_live(&self) -> Result<Snapshot, sqlx::Error> {
        let ids = self.live_deployments().await?;
        let deployments = self.deployments(&ids).await?;
        let environments = self.environments_of(&deployments).await?;
        Ok(Snapshot {
            environments,
            deployments,
            tasks: self.live_tasks().await?,
            nodes: self.nodes().await?,
            proxies: Vec::new(),
            routing_epoch: 0,
            applied: self.applied_operations().await?,
        })
    }

    /// Some deployments and what served before them, by environment.
    pub async fn load_deployments(
        &self,
        ids: &[DeploymentId],
    ) -> Result<Vec<(Environment, Vec<Deployment>)>, sqlx::Error> {
        let mut ids = ids.to_vec();
        ids.extend(self.previous_of(&ids).await?);
        let deployments = self.deployments(&ids).await?;
        let environments = self.environments_of(&deployments).await?;
        let mut by_environment: BTreeMap<EnvironmentId, Vec<Deployment>> = BTreeMap::new();
        for deployment in deployments {
            by_environment
                .entry(deployment.environment_id)
                .or_default()
                .push(deployment);
        }
        let pair =
            |environment: Environment| by_environment.remove(&environment.id).map(|d| (environment, d));
        Ok(environments.into_iter().filter_map(pair).collect())
    }

    /// What is served, rolled out, awake or gone back to. Every part has an index, so that what ended long ago costs
    /// nothing.
    async fn live_deployments(&self) -> Result<Vec<DeploymentId>, sqlx::Error> {
        sqlx::query_scalar!(
            r#"SELECT id AS "id!: DeploymentId" FROM deployments
                WHERE status IN ('pending', 'running') OR (status = 'succeeded' AND NOT asleep)
               UNION SELECT current_deployment_id FROM environments WHERE current_deployment_id IS NOT NULL
               UNION SELECT target_deployment_id FROM environments WHERE target_deployment_id IS NOT NULL
               UNION SELECT deployment_id FROM tasks WHERE state NOT IN ('stopped', 'failed')
               UNION SELECT p.id FROM environments e
                       JOIN deployments c ON c.id = e.current_deployment_id
                       JOIN deployments p ON p.id = c.previous_deployment_id"#
        )
        .fetch_all(&self.pool)
        .await
    }

    /// What served before these.
    async fn previous_of(&self, ids: &[DeploymentId]) -> Result<Vec<DeploymentId>, sqlx::Error> {
        sqlx::query_scalar!(
            r#"SELECT previous_deployment_id AS "id!: DeploymentId" FROM deployments
                WHERE id = ANY($1) AND previous_deployment_id IS NOT NULL"#,
            ids as _
        )
        .fetch_all(&self.pool)
        .await
    }

    async fn deployments(&self, ids: &[DeploymentId]) -> Result<Vec<Deployment>, sqlx::Error> {
        let rows = sqlx::query_as!(
            DeploymentRow,
            r#"SELECT d.id AS "id: DeploymentId", d.application_id AS "application_id: ApplicationId",
                      d.environment_id AS "environment_id: EnvironmentId", d.version,
                      d.spec AS "spec: Json<DeploymentSpec>", d.image,
                      COALESCE(d.artifact_id, b.artifact_id) AS "artifact_id: ArtifactId",
                      COALESCE(a.state = 'ready', false) AS "artifact_ready!",
                      b.status AS "build_status?: BuildStatus", b.message AS "build_message?",
                      d.replicas, d.idle_timeout_secs, d.cold_start_enabled,
                      d.status AS "status: DeploymentStatus", d.reason AS "reason: Reason", d.message,
                      d.evidence AS "evidence: Json<Evidence>", d.health AS "health: Health", d.asleep,
                      d.previous_deployment_id AS "previous_id: DeploymentId", d.created_at,
                      d.rollout_started_at, d.promoted_at, d.finished_at,
                      (SELECT (EXTRACT(EPOCH FROM now() - max(last_active_at)) * 1000)::bigint
                         FROM deployment_activity x WHERE x.deployment_id = d.id) AS "idle_ms",
                      -- As the core counts them: what is the program's own fault, since the rollout began, until it ends.
                      (SELECT count(*) FROM tasks t
                        WHERE (d.status IN ('pending', 'running') OR d.id = e.target_deployment_id)
                          AND t.deployment_id = d.id AND t.created_at >= d.rollout_started_at
                          AND (t.state = 'failed' AND t.reason NOT IN ('node_lost', 'port_taken')
                               OR t.wanted = 'stop' AND t.reason IN ('port_never_opened', 'health_check_failed')))
                          AS "rollout_failures!",
                      ARRAY(SELECT last.slot FROM (
                                SELECT DISTINCT ON (t.slot) t.slot, t.state, t.reason, t.exit_code FROM tasks t
                                 WHERE t.deployment_id = d.id AND d.spec->>'restart' <> 'always' AND NOT d.asleep
                                 ORDER BY t.slot, t.created_at DESC) last
                             WHERE last.state = 'stopped' AND last.reason = 'exited' AND last.exit_code = 0)
                          AS "completed!"
                 FROM deployments d
                 JOIN environments e ON e.id = d.environment_id
                 LEFT JOIN builds b ON b.id = d.build_id
                 LEFT JOIN artifacts a ON a.id = COALESCE(d.artifact_id, b.artifact_id)
                WHERE d.id = ANY($1)
                ORDER BY d.id"#,
            ids as _
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(DeploymentRow::into_deployment).collect())
    }

    async fn environments_of(&self, deployments: &[Deployment]) -> Result<Vec<Environment>, sqlx::Error> {
        let ids: BTreeSet<EnvironmentId> = deployments
            .iter()
            .map(|deployment| deployment.environment_id)
            .collect();
        let ids: Vec<EnvironmentId> = ids.into_iter().collect();
        let rows = sqlx::query!(
            r#"SELECT id AS "id: EnvironmentId", application_id AS "application_id: ApplicationId", slug,
                      current_deployment_id AS "current: DeploymentId", target_deployment_id AS "target: DeploymentId",
                      target_weight
                 FROM environments WHERE id = ANY($1)"#,
            ids as _
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Environment {
                id: row.id,
                application_id: row.application_id,
                slug: row.slug,
                current: row.current,
                target: row.target,
                target_weight: row.target_weight.map(|weight| weight as u8),
                open: BTreeSet::new(),
            })
            .collect())
    }

    async fn live_tasks(&self) -> Result<Vec<Task>, sqlx::Error> {
        let rows = sqlx::query!(
            r#"SELECT id AS "id: TaskId", deployment_id AS "deployment_id: DeploymentId", slot,
                      node_id AS "node_id: NodeId", state AS "state: TaskState", wanted AS "wanted: Wanted",
                      reason AS "reason: Reason", message, generation, address, port, healthy, routed,
                      unrouted_epoch, drain_until, restarts, not_before, exit_code, signal,
                      phases AS "phases: Json<Phases>", created_at, started_at, running_at, finished_at
                 FROM tasks WHERE state NOT IN ('stopped', 'failed') ORDER BY id"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Task {
                id: row.id,
                deployment_id: row.deployment_id,
                slot: row.slot as u32,
                node_id: row.node_id,
                state: row.state,
                wanted: row.wanted,
                reason: row.reason,
                message: row.message,
                generation: row.generation as u64,
                address: row.address.map(Arc::from),
                port: row.port.map(|port| port as u16),
                healthy: row.healthy,
                routed: row.routed,
                unrouted: row
                    .unrouted_epoch
                    .map_or(Unrouted::No, |epoch| Unrouted::At(epoch as u64)),
                drain_until: row.drain_until,
                restarts: row.restarts as u32,
                not_before: row.not_before,
                exit_code: row.exit_code,
                signal: row.signal,
                phases: row.phases.map(|phases| phases.0),
                created_at: row.created_at,
                started_at: row.started_at,
                running_at: row.running_at,
                finished_at: row.finished_at,
                seen_at: None,
            })
            .collect())
    }

    /// All nodes, as last seen.
    pub async fn nodes(&self) -> Result<Vec<Node>, sqlx::Error> {
        let rows = sqlx::query!(
            r#"SELECT id AS "id: NodeId", name, address, actions_port, labels AS "labels: Json<Labels>", cpu_millis,
                      memory_bytes, task_slots, port_min, port_max, container_enabled,
                      enforcement AS "enforcement: Json<Enforcement>", eligibility AS "eligibility: Eligibility",
                      status AS "status: NodeStatus", lease_expires_at, registered_at
                 FROM nodes ORDER BY id"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let capacity = Capacity {
                    cpu: CpuMillis(row.cpu_millis as u32),
                    memory: MemoryBytes(row.memory_bytes as u64),
                    task_slots: row.task_slots as u32,
                };
                let facts = NodeFacts {
                    name: row.name,
                    address: row.address,
                    actions_port: row.actions_port as u16,
                    labels: row.labels.0,
                    capacity,
                    port_min: row.port_min as u16,
                    port_max: row.port_max as u16,
                    container_enabled: row.container_enabled,
                    enforcement: row.enforcement.0,
                };
                let mut node = Node::new(row.id, facts, row.registered_at);
                (node.eligibility, node.status) = (row.eligibility, row.status);
                (node.lease_expires_at, node.has_extras) =
                    (row.lease_expires_at, row.status == NodeStatus::Lost);
                node
            })
            .collect())
    }
}
