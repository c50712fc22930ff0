//! What changed while nobody told us: read at every hint, and every second without one.

use super::Store;
use crate::core::Operation;
use std::time::Duration;
use zectre_common::{
    id::{DeploymentId, NodeId, ProxyId, TaskId},
    state::{Eligibility, OperationKind},
    time::Time,
};

/// The most operations taken at once; the others at the next look.
pub const OPERATIONS_MAX: usize = 1_000;
/// The most deployments whose source arrived that are taken at once.
const SOURCED_MAX: i64 = 500;

/// How long after its end a lease is spared by whoever can't tell who was silent.
const SPARED_FOR: Duration = Duration::from_secs(300);
/// A lease that is spared starts anew.
const LEASE: Duration = Duration::from_secs(10);

/// A proxy's row, with what is left of its lease by the database's clock.
#[derive(Debug, Clone, Copy)]
pub struct ProxyLease {
    /// Its id.
    pub id: ProxyId,
    /// How much longer it counts; `None` when it doesn't.
    pub remaining: Option<Duration>,
    /// The newest epoch it routes by.
    pub applied_epoch: u64,
    /// The newest epoch of whose removed tasks none has a request left.
    pub drained_epoch: u64,
}

/// How much longer a lease counts that has `left_ms`. Whoever has not listened for a while can't tell who was silent, and perhaps
/// nobody could write: for it, leases that ended not long ago start anew.
fn remaining(left_ms: i64, has_listened: bool) -> Option<Duration> {
    let spared = !has_listened && left_ms > -(SPARED_FOR.as_millis() as i64);
    if spared {
        return Some(LEASE);
    }
    u64::try_from(left_ms)
        .ok()
        .filter(|left| *left > 0)
        .map(Duration::from_millis)
}

/// When that was by the clock of this machine: the database's may differ.
pub(super) fn ago(ms: i64) -> Time {
    Time::from_unix_ms(Time::now().unix_ms() - ms.max(0))
}

impl Store {
    /// What people asked for and was not applied yet, in order.
    pub async fn unapplied_operations(&self) -> Result<Vec<Operation>, sqlx::Error> {
        let rows = sqlx::query!(
            r#"SELECT id, kind AS "kind: OperationKind", deployment_id AS "deployment_id: DeploymentId",
                      task_id AS "task_id: TaskId", node_id AS "node_id: NodeId", actor, request_id
                 FROM operations WHERE applied_at IS NULL ORDER BY id LIMIT $1"#,
            OPERATIONS_MAX as i64
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Operation {
                id: row.id,
                kind: row.kind,
                deployment_id: row.deployment_id,
                task_id: row.task_id,
                node_id: row.node_id,
                actor: row.actor,
                request_id: row.request_id,
            })
            .collect())
    }

    /// Operations that were applied lately. Longer ago than any look at them can have taken.
    pub async fn applied_operations(&self) -> Result<Vec<i64>, sqlx::Error> {
        sqlx::query_scalar!(
            "SELECT id FROM operations WHERE applied_at > now() - interval '2 minutes' ORDER BY id DESC LIMIT $1",
            OPERATIONS_MAX as i64
        )
        .fetch_all(&self.pool)
        .await
    }

    /// The routing epoch of the last change.
    pub async fn routing_epoch(&self) -> Result<u64, sqlx::Error> {
        let epoch = sqlx::query_scalar!("SELECT epoch FROM routing_epoch")
            .fetch_one(&self.pool)
            .await?;
        Ok(epoch as u64)
    }

    /// All proxies that have a row; those of proxies that stopped in order are gone.
    pub async fn proxies(&self, has_listened: bool) -> Result<Vec<ProxyLease>, sqlx::Error> {
        let rows = sqlx::query!(
            r#"SELECT id AS "id: ProxyId", applied_epoch, drained_epoch,
                      (EXTRACT(EPOCH FROM lease_expires_at - now()) * 1000)::bigint AS "left_ms!"
                 FROM proxies"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| ProxyLease {
                id: row.id,
                remaining: remaining(row.left_ms, has_listened),
                applied_epoch: row.applied_epoch.max(0) as u64,
                drained_epoch: row.drained_epoch.max(0) as u64,
            })
            .collect())
    }

    /// The last requests of the deployments that had any within `window`, by the clock of this machine.
    pub async fn activity(&self, window: Duration) -> Result<Vec<(DeploymentId, Time)>, sqlx::Error> {
        let rows = sqlx::query!(
            r#"SELECT deployment_id AS "deployment_id: DeploymentId",
                      (EXTRACT(EPOCH FROM now() - max(last_active_at)) * 1000)::bigint AS "idle_ms!"
                 FROM deployment_activity WHERE last_active_at > now() - make_interval(secs => $1)
                GROUP BY deployment_id"#,
            window.as_secs_f64()
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| (row.deployment_id, ago(row.idle_ms)))
            .collect())
    }

    /// Waiting deployments whose build has ended or whose artifact has arrived.
    pub async fn sourced_deployments(&self) -> Result<Vec<DeploymentId>, sqlx::Error> {
        sqlx::query_scalar!(
            r#"SELECT d.id AS "id: DeploymentId"
                 FROM deployments d
                 LEFT JOIN builds b ON b.id = d.build_id
                 LEFT JOIN artifacts a ON a.id = d.artifact_id
                WHERE d.status = 'pending' AND d.rollout_started_at IS NULL
                  AND (b.status IN ('succeeded', 'failed', 'cancelled') OR a.state = 'ready')
                ORDER BY d.id LIMIT $1"#,
            SOURCED_MAX
        )
        .fetch_all(&self.pool)
        .await
    }

    /// Those of `ids` that have no row any more.
    pub async fn gone_deployments(&self, ids: &[DeploymentId]) -> Result<Vec<DeploymentId>, sqlx::Error> {
        sqlx::query_scalar!(
            r#"SELECT known.id AS "id!: DeploymentId" FROM unnest($1::uuid[]) AS known(id)
                WHERE NOT EXISTS (SELECT FROM deployments d WHERE d.id = known.id)"#,
            ids as _
        )
        .fetch_all(&self.pool)
        .await
    }

    /// What is wanted of each node.
    pub async fn eligibilities(&self) -> Result<Vec<(NodeId, Eligibility)>, sqlx::Error> {
        let rows = sqlx::query!(
            r#"SELECT id AS "id: NodeId", eligibility AS "eligibility: Eligibility" FROM nodes"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.id, row.eligibility)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_ended_lately_is_spared_by_who_could_not_know() {
        let secs = |secs| Some(Duration::from_secs(secs));
        assert_eq!(remaining(4_000, true), secs(4));
        assert_eq!((remaining(0, true), remaining(-1, true)), (None, None));
        assert_eq!(
            (remaining(4_000, false), remaining(-299_000, false)),
            (secs(10), secs(10))
        );
        assert_eq!(remaining(-300_000, false), None);
    }
}
