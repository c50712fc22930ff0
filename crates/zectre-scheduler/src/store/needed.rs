//! Which artifacts and images the cluster may have to start at any moment, so that no node drops them.

use super::Store;

impl Store {
    /// Those of the given artifacts (by hash) and images that belong to a deployment that is being rolled out, is
    /// current, has a task, or is what a rollback of one of these would lead to.
    pub async fn needed(
        &self,
        artifacts: &[String],
        images: &[String],
    ) -> Result<(Vec<String>, Vec<String>), sqlx::Error> {
        let rows = sqlx::query!(
            r#"SELECT DISTINCT a.sha256 AS "sha256?", d.image AS "image?"
                 FROM deployments d
                 JOIN environments e ON e.id = d.environment_id
                 LEFT JOIN builds b ON b.id = d.build_id
                 LEFT JOIN artifacts a ON a.id = COALESCE(d.artifact_id, b.artifact_id)
                WHERE (a.sha256 = ANY($1) OR d.image = ANY($2))
                  AND (d.status IN ('pending', 'running')
                       OR d.id IN (e.current_deployment_id, e.target_deployment_id)
                       OR EXISTS (SELECT 1 FROM deployments n
                                   WHERE n.id IN (e.current_deployment_id, e.target_deployment_id)
                                     AND n.previous_deployment_id = d.id)
                       OR EXISTS (SELECT 1 FROM tasks t
                                   WHERE t.deployment_id = d.id AND t.state NOT IN ('stopped', 'failed')))"#,
            artifacts,
            images
        )
        .fetch_all(&self.pool)
        .await?;
        let mut needed = (Vec::new(), Vec::new());
        for row in rows {
            needed
                .0
                .extend(row.sha256.filter(|sha256| artifacts.contains(sha256)));
            needed.1.extend(row.image.filter(|image| images.contains(image)));
        }
        for names in [&mut needed.0, &mut needed.1] {
            names.sort();
            names.dedup();
        }
        Ok(needed)
    }
}
