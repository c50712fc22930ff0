//! Joining: a token admits one node once, and the row of the node is made in the same transaction.

use super::Store;
use crate::core::NodeFacts;
use sqlx::types::Json;
use zectre_common::{id::NodeId, state::NodeStatus};

/// Whether a machine is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// As this node.
    Node(NodeId),
    /// What it came with admits nobody.
    Unknown,
    /// Another machine has its name, at this address.
    NameTaken(String),
}

impl Store {
    /// Uses up the join token with this hash and makes the node's row. A node that lost its credential gets its old
    /// row back by name and address. Another machine never does, not even when the node is lost: it may be back in a
    /// moment, and both would speak for it. A refusal for the name's sake leaves the token unused.
    pub async fn admit(&self, token_hash: &[u8], facts: &NodeFacts) -> Result<Admission, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let fresh = NodeId::new();
        let used = sqlx::query!(
            "UPDATE join_tokens SET used_by = $2 WHERE hash = $1 AND used_by IS NULL AND expires_at > now()",
            token_hash,
            fresh as _
        )
        .execute(&mut *transaction)
        .await?;
        if used.rows_affected() == 0 {
            return Ok(Admission::Unknown);
        }
        let id = sqlx::query_scalar!(
            r#"INSERT INTO nodes (id, name, address, actions_port, labels, cpu_millis, memory_bytes, task_slots,
                                  port_min, port_max, container_enabled, enforcement, status, lease_expires_at)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, now())
               ON CONFLICT (name) DO UPDATE SET address = EXCLUDED.address
                   WHERE nodes.address = EXCLUDED.address
               RETURNING id AS "id: NodeId""#,
            fresh as _,
            facts.name,
            facts.address,
            i32::from(facts.actions_port),
            Json(&facts.labels) as _,
            i64::from(facts.capacity.cpu.0),
            facts.capacity.memory.0 as i64,
            facts.capacity.task_slots as i32,
            i32::from(facts.port_min),
            i32::from(facts.port_max),
            facts.container_enabled,
            Json(&facts.enforcement) as _,
            NodeStatus::Ready.as_str(),
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(id) = id else {
            let address = sqlx::query_scalar!("SELECT address FROM nodes WHERE name = $1", facts.name)
                .fetch_optional(&mut *transaction)
                .await?;
            return Ok(Admission::NameTaken(address.unwrap_or_default()));
        };
        transaction.commit().await?;
        Ok(Admission::Node(id))
    }

    /// Whether the node has a row: one that was deleted has to join again.
    pub async fn has_node(&self, id: NodeId) -> Result<bool, sqlx::Error> {
        let found = sqlx::query_scalar!("SELECT 1 FROM nodes WHERE id = $1", id as _)
            .fetch_optional(&self.pool)
            .await?;
        Ok(found.is_some())
    }

    /// Whether the node has a row (one that was deleted has to join again), and nobody else the name that it has now.
    pub async fn readmit(&self, id: NodeId, name: &str) -> Result<Admission, sqlx::Error> {
        let rows = sqlx::query!(
            r#"SELECT id AS "id: NodeId", address FROM nodes WHERE id = $1 OR name = $2"#,
            id as _,
            name
        )
        .fetch_all(&self.pool)
        .await?;
        let (own, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.id == id);
        Ok(match others.into_iter().next() {
            _ if own.is_empty() => Admission::Unknown,
            Some(other) => Admission::NameTaken(other.address),
            None => Admission::Node(id),
        })
    }
}
