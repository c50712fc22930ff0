//! The rows that the API writes, and what the tests read back.

use super::{PATIENCE, World};
use sqlx::PgPool;
use zectre_common::{
    id::{ApplicationId, ArtifactId, DeploymentId, EnvironmentId},
    spec::{DeploymentRequest, DeploymentSpec},
    state::DeploymentStatus,
};
use zectre_service::{
    key::{Keys, random_bytes, to_hex},
    seal,
};
use zectre_testkit::wait_until;

/// An application with one environment and a stored artifact.
pub(crate) struct App {
    pub(crate) pool: PgPool,
    pub(crate) application: ApplicationId,
    pub(crate) environment: EnvironmentId,
    pub(crate) artifact: ArtifactId,
}

pub(crate) fn spec(json: &str) -> DeploymentSpec {
    let request: DeploymentRequest = serde_json::from_str(json).expect("a valid request");
    request
        .resolve(&DeploymentRequest::default())
        .expect("a valid spec")
}

impl App {
    pub(crate) async fn create(world: &World) -> Self {
        let pool = world.database.pool().await;
        let (application, environment) = (ApplicationId::new(), EnvironmentId::new());
        let artifact = ArtifactId::new();
        sqlx::query("INSERT INTO applications (id, namespace_id, name, subdomain) VALUES ($1, '01900000-0000-7000-8000-000000000002', 'hello', 'hello-default')")
            .bind(application).execute(&pool).await.expect("inserted");
        sqlx::query("INSERT INTO environments (id, application_id, slug) VALUES ($1, $2, 'development')")
            .bind(environment)
            .bind(application)
            .execute(&pool)
            .await
            .expect("inserted");
        sqlx::query("INSERT INTO artifacts (id, organization_id, name, kind, content_type, size_bytes, sha256, state)
                     VALUES ($1, '01900000-0000-7000-8000-000000000001', 'hello', 'binary', 'application/octet-stream', 3, $2, 'ready')")
            .bind(artifact).bind("ab".repeat(32)).execute(&pool).await.expect("inserted");
        let app = Self {
            pool,
            application,
            environment,
            artifact,
        };
        app.set_variable(world, "GREETING", "hello").await;
        app
    }

    /// How often each node was woken on, as its series tells.
    pub(crate) async fn wakes_of_nodes(&self) -> Vec<i64> {
        let counts = sqlx::query_scalar(
            "SELECT sum(w.wakes)::bigint FROM node_wakes w JOIN nodes n ON n.id = w.node_id WHERE w.step_secs = 10 GROUP BY n.id",
        );
        counts.fetch_all(&self.pool).await.expect("they can be counted")
    }

    async fn set_variable(&self, world: &World, key: &str, value: &str) {
        let master = Keys::load(&world.config("").secrets)
            .and_then(|keys| keys.master())
            .expect("the key is there");
        let sealed = seal::seal(&master, &format!("env:{}:*:{key}", self.application), value);
        sqlx::query(
            "INSERT INTO env_vars (id, application_id, key, value) VALUES (gen_random_uuid(), $1, $2, $3)",
        )
        .bind(self.application)
        .bind(key)
        .bind(sealed)
        .execute(&self.pool)
        .await
        .expect("inserted");
    }

    /// What `POST /apps/{id}/deployments` writes.
    pub(crate) async fn deploy(&self, version: i32, json: &str) -> DeploymentId {
        let (id, spec) = (DeploymentId::new(), spec(json));
        let label = format!("hello-default-{}", to_hex(&random_bytes::<4>()));
        sqlx::query("INSERT INTO deployments (id, application_id, environment_id, version, spec, artifact_id, preview_label,
                                              replicas, idle_timeout_secs, cold_start_enabled)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)")
            .bind(id).bind(self.application).bind(self.environment).bind(version)
            .bind(sqlx::types::Json(&spec)).bind(self.artifact).bind(label)
            .bind(spec.replicas as i32).bind(spec.idle_timeout_secs as i32).bind(spec.cold_start_enabled)
            .execute(&self.pool).await.expect("inserted");
        self.ask("deploy", id).await;
        id
    }

    /// A row of `operations`.
    pub(crate) async fn ask(&self, kind: &str, id: DeploymentId) {
        sqlx::query("INSERT INTO operations (kind, deployment_id, actor) VALUES ($1, $2, 'user:test')")
            .bind(kind)
            .bind(id)
            .execute(&self.pool)
            .await
            .expect("inserted");
    }

    pub(crate) async fn status(
        &self,
        id: DeploymentId,
    ) -> (DeploymentStatus, Option<String>, Option<String>) {
        sqlx::query_as("SELECT status, reason, message FROM deployments WHERE id = $1")
            .bind(id)
            .fetch_one(&self.pool)
            .await
            .expect("it has a row")
    }

    pub(crate) async fn becomes(&self, id: DeploymentId, wanted: DeploymentStatus) {
        wait_until(PATIENCE, wanted.as_str(), async || {
            (self.status(id).await.0 == wanted).then_some(())
        })
        .await;
    }

    pub(crate) async fn current(&self) -> Option<DeploymentId> {
        sqlx::query_scalar("SELECT current_deployment_id FROM environments WHERE id = $1")
            .bind(self.environment)
            .fetch_one(&self.pool)
            .await
            .expect("it has a row")
    }

    /// Tasks of the deployment that take requests.
    pub(crate) async fn routed(&self, id: DeploymentId) -> i64 {
        self.count("SELECT count(*) FROM tasks WHERE deployment_id = $1 AND routed AND healthy AND state = 'running'", id).await
    }

    /// Tasks of the deployment that have not ended.
    pub(crate) async fn live(&self, id: DeploymentId) -> i64 {
        self.count(
            "SELECT count(*) FROM tasks WHERE deployment_id = $1 AND state NOT IN ('stopped', 'failed')",
            id,
        )
        .await
    }

    async fn count(&self, statement: &'static str, id: DeploymentId) -> i64 {
        sqlx::query_scalar(statement)
            .bind(id)
            .fetch_one(&self.pool)
            .await
            .expect("counted")
    }

    /// Tasks whose end is recorded with this reason.
    pub(crate) async fn ended_with(&self, id: DeploymentId, reason: &str) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM tasks WHERE deployment_id = $1 AND state IN ('stopped', 'failed') AND reason = $2")
            .bind(id).bind(reason).fetch_one(&self.pool).await.expect("counted")
    }

    /// A join token, as `POST /nodes/join-tokens` makes one.
    pub(crate) async fn join_token(&self) -> String {
        use sha2::{Digest, Sha256};
        let token = format!("zj_{}", to_hex(&random_bytes::<32>()));
        sqlx::query("INSERT INTO join_tokens (id, hash, expires_at) VALUES (gen_random_uuid(), $1, now() + interval '1 hour')")
            .bind(Sha256::digest(token.as_bytes()).to_vec()).execute(&self.pool).await.expect("inserted");
        token
    }
}
