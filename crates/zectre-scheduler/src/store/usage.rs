//! What tasks use.

use super::Store;
use uuid::Uuid;
use zectre_common::{id::TaskId, wire::task::TaskUsage};

impl Store {
    /// Writes samples. A row that a commit holds is passed over: it gets the next sample, and nobody waits for this.
    pub async fn write_usage(&self, rows: &[(TaskId, TaskUsage)]) -> Result<(), sqlx::Error> {
        let bounded = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let ids: Vec<Uuid> = rows.iter().map(|(id, _)| id.get()).collect();
        let cpu: Vec<i64> = rows.iter().map(|(_, usage)| bounded(usage.cpu_millis)).collect();
        let memory: Vec<i64> = rows
            .iter()
            .map(|(_, usage)| bounded(usage.memory_bytes))
            .collect();
        sqlx::query!(
            "WITH news AS (SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[]) AS n (id, cpu, memory)),
             free AS (SELECT t.id FROM tasks t JOIN news n ON n.id = t.id WHERE t.state NOT IN ('stopped', 'failed')
                      FOR NO KEY UPDATE OF t SKIP LOCKED)
             UPDATE tasks t SET usage_cpu_millis = n.cpu, usage_memory_bytes = n.memory, usage_at = now()
             FROM news n JOIN free f ON f.id = n.id WHERE t.id = n.id",
            &ids,
            &cpu,
            &memory
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
