//! Deployments: the API writes what is wanted, the scheduler what it decided and saw.

use super::rows::{Lists, page, some};
use crate::{error::Error, page::Window, urls::Urls};
use sqlx::{PgConnection, PgExecutor, types::Json};
use zectre_common::{
    id::{ApplicationId, ArtifactId, BuildId, DeploymentId, EnvironmentId, OrganizationId, UserId},
    spec::DeploymentSpec,
    state::{DeploymentStatus, Health, Reason},
    time::Time,
    wire::deployment::{Deployment, Evidence, UpdateDeploymentRequest},
};

/// As stored.
pub(crate) struct Row {
    id: DeploymentId,
    application_id: ApplicationId,
    environment: String,
    version: i32,
    status: DeploymentStatus,
    reason: Option<Reason>,
    message: Option<String>,
    evidence: Option<Json<Evidence>>,
    health: Health,
    current: bool,
    /// It answers at the application's own host.
    at_app_host: bool,
    /// Where its environment takes plain TCP, when that is what it speaks.
    tcp_port: Option<i32>,
    artifact_id: Option<ArtifactId>,
    image: Option<String>,
    build_id: Option<BuildId>,
    replicas: i32,
    idle_timeout_secs: i32,
    cold_start_enabled: bool,
    spec: Json<DeploymentSpec>,
    preview_label: String,
    subdomain: String,
    created_at: Time,
    finished_at: Option<Time>,
}

impl Row {
    /// As shown.
    pub(crate) fn into_deployment(self, urls: &Urls) -> Deployment {
        Deployment {
            id: self.id,
            application_id: self.application_id,
            environment: self.environment,
            version: self.version as u32,
            status: self.status,
            reason: self.reason,
            message: self.message,
            evidence: self.evidence.map(|evidence| evidence.0),
            health: self.health,
            current: self.current,
            artifact_id: self.artifact_id,
            image: self.image,
            build_id: self.build_id,
            replicas: self.replicas as u32,
            idle_timeout_secs: self.idle_timeout_secs as u32,
            cold_start_enabled: self.cold_start_enabled,
            spec: self.spec.0,
            preview_url: urls.of_label(&self.preview_label),
            preview_label: self.preview_label,
            tcp_address: self
                .tcp_port
                .and_then(|port| urls.tcp_address(&self.subdomain, port)),
            url: self.at_app_host.then(|| urls.of_label(&self.subdomain)),
            created_at: self.created_at,
            finished_at: self.finished_at,
        }
    }
}

macro_rules! deployments {
    ($form:ident, $($rest:tt)*) => {
        $form!(
            Row,
            r#"d.id AS "id: DeploymentId", d.application_id AS "application_id: ApplicationId",
                  e.slug AS environment, d.version, d.status AS "status: DeploymentStatus",
                  d.reason AS "reason: Reason", d.message, d.evidence AS "evidence: Json<Evidence>",
                  d.health AS "health: Health",
                  (e.current_deployment_id IS NOT DISTINCT FROM d.id) AS "current!",
                  (e.current_deployment_id IS NOT DISTINCT FROM d.id AND
                   (e.slug = 'production' OR (e.slug = 'development' AND NOT EXISTS (
                       SELECT 1 FROM environments p WHERE p.application_id = d.application_id
                         AND p.slug = 'production' AND p.current_deployment_id IS NOT NULL)))) AS "at_app_host!",
                  CASE WHEN d.spec->'networking'->>'protocol' = 'tcp' THEN e.public_port END AS tcp_port,
                  d.artifact_id AS "artifact_id: ArtifactId", d.image, d.build_id AS "build_id: BuildId",
                  d.replicas, d.idle_timeout_secs, d.cold_start_enabled, d.spec AS "spec: Json<DeploymentSpec>",
                  d.preview_label, a.subdomain, d.created_at, d.finished_at"#,
            r#"deployments d JOIN environments e ON e.id = d.environment_id
               JOIN applications a ON a.id = d.application_id
               WHERE "#,
            $($rest)*
        )
    };
}

/// An application's.
pub(crate) async fn list(
    lists: &Lists,
    app: ApplicationId,
    environment: Option<&str>,
    status: Option<DeploymentStatus>,
    window: &Window,
) -> Result<(Vec<Row>, i64), Error> {
    let status = status.map(DeploymentStatus::as_str);
    // Versions count up with time: both sort keys give one order.
    let (rows, total) = deployments!(
        page,
        "d.application_id = $1 AND e.deleted_at IS NULL AND ($2::text IS NULL OR e.slug = $2)
             AND ($3::text IS NULL OR d.status = $3)",
        [app as _, environment, status],
        order "CASE WHEN NOT $4 THEN d.version END, CASE WHEN $4 THEN d.version END DESC
           LIMIT $5 OFFSET $6",
        [window.descending],
        window,
        lists
    );
    Ok((rows, total))
}

/// By id.
pub(crate) async fn get(executor: impl PgExecutor<'_>, id: DeploymentId) -> Result<Option<Row>, Error> {
    Ok(deployments!(some, "d.id = $1", id as _)
        .fetch_optional(executor)
        .await?)
}

/// Whose a deployment is: neither ever changes.
pub(crate) struct Place {
    pub(crate) application_id: ApplicationId,
    pub(crate) organization_id: OrganizationId,
}

/// Where it belongs, whether or not that is deleted.
pub(crate) async fn place(connection: &mut PgConnection, id: DeploymentId) -> Result<Option<Place>, Error> {
    let query = sqlx::query_as!(
        Place,
        r#"SELECT d.application_id AS "application_id: ApplicationId", n.organization_id AS "organization_id: OrganizationId"
           FROM deployments d JOIN applications a ON a.id = d.application_id JOIN namespaces n ON n.id = a.namespace_id
           WHERE d.id = $1"#,
        id as _
    );
    Ok(query.fetch_optional(connection).await?)
}

/// What decides whether an action makes sense.
pub(crate) struct Standing {
    pub(crate) version: i32,
    pub(crate) status: DeploymentStatus,
    pub(crate) current: bool,
    pub(crate) target: bool,
    pub(crate) previous_deployment_id: Option<DeploymentId>,
    pub(crate) replicas: i32,
    /// It runs to completion and serves nothing.
    pub(crate) is_job: bool,
}

/// How the deployment stands; its row stays locked until the change ends. `None` where its environment is deleted: the application's lock,
/// which the caller has, keeps that from happening meanwhile (a wait for this row would not notice it).
pub(crate) async fn lock(connection: &mut PgConnection, id: DeploymentId) -> Result<Option<Standing>, Error> {
    let query = sqlx::query_as!(
        Standing,
        r#"SELECT d.version, d.status AS "status: DeploymentStatus",
                  (e.current_deployment_id IS NOT DISTINCT FROM d.id) AS "current!",
                  (e.target_deployment_id IS NOT DISTINCT FROM d.id) AS "target!",
                  d.previous_deployment_id AS "previous_deployment_id: DeploymentId", d.replicas,
                  COALESCE(d.spec->>'restart' = 'never', false) AS "is_job!"
           FROM deployments d JOIN environments e ON e.id = d.environment_id
           WHERE d.id = $1 AND e.deleted_at IS NULL FOR UPDATE OF d"#,
        id as _
    );
    Ok(query.fetch_optional(connection).await?)
}

/// Whether it sleeps, may be woken by a request, and another version serves in its place; not when that is asked for already.
pub(crate) async fn wakes_beside(executor: impl PgExecutor<'_>, id: DeploymentId) -> Result<bool, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT d.status = 'succeeded' AND d.asleep AND d.cold_start_enabled AND COALESCE(d.spec->>'restart', '') <> 'never'
                  AND COALESCE(d.id NOT IN (e.current_deployment_id, e.target_deployment_id), true)
                  AND NOT EXISTS (SELECT 1 FROM operations o
                                  WHERE o.applied_at IS NULL AND o.kind = 'wake' AND o.deployment_id = d.id) AS "wakes!"
           FROM deployments d JOIN environments e ON e.id = d.environment_id WHERE d.id = $1"#,
        id as _
    );
    Ok(query.fetch_optional(executor).await?.unwrap_or(false))
}

/// A deployment about to be made.
pub(crate) struct New<'a> {
    pub(crate) id: DeploymentId,
    pub(crate) application_id: ApplicationId,
    pub(crate) environment_id: EnvironmentId,
    pub(crate) spec: &'a DeploymentSpec,
    pub(crate) image: Option<&'a str>,
    pub(crate) artifact_id: Option<ArtifactId>,
    pub(crate) build_id: Option<BuildId>,
    pub(crate) preview_label: &'a str,
    pub(crate) created_by: Option<UserId>,
}

/// Makes one with the next version (the application's row must be locked); `None` when the label is taken.
pub(crate) async fn insert(connection: &mut PgConnection, new: &New<'_>) -> Result<Option<i32>, Error> {
    let query = sqlx::query_scalar!(
        "INSERT INTO deployments (id, application_id, environment_id, version, spec, image, artifact_id, build_id,
                                  preview_label, replicas, idle_timeout_secs, cold_start_enabled, created_by)
         SELECT $1, $2, $3, COALESCE(max(version), 0) + 1, $4, $5, $6, $7, $8, $9, $10, $11, $12
         FROM deployments WHERE application_id = $2
         ON CONFLICT (preview_label) DO NOTHING RETURNING version",
        new.id as _,
        new.application_id as _,
        new.environment_id as _,
        Json(new.spec) as _,
        new.image,
        new.artifact_id as _,
        new.build_id as _,
        new.preview_label,
        new.spec.replicas as i32,
        new.spec.idle_timeout_secs as i32,
        new.spec.cold_start_enabled,
        new.created_by as _
    );
    Ok(query.fetch_optional(connection).await?)
}

/// Changes what is given.
pub(crate) async fn update(
    connection: &mut PgConnection,
    id: DeploymentId,
    request: UpdateDeploymentRequest,
) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE deployments SET replicas = COALESCE($2, replicas),
                idle_timeout_secs = COALESCE($3, idle_timeout_secs),
                cold_start_enabled = COALESCE($4, cold_start_enabled) WHERE id = $1",
        id as _,
        request.replicas.map(|replicas| replicas as i32),
        request.idle_timeout_secs.map(|secs| secs as i32),
        request.cold_start_enabled
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deployments of an application (or one of its environments) that are being rolled out or have tasks: what
/// the scheduler must stop before the rows can go.
pub(crate) async fn live(
    connection: &mut PgConnection,
    app: ApplicationId,
    environment: Option<EnvironmentId>,
) -> Result<Vec<DeploymentId>, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT d.id AS "id: DeploymentId" FROM deployments d JOIN environments e ON e.id = d.environment_id
           WHERE d.application_id = $1 AND ($2::uuid IS NULL OR d.environment_id = $2)
             AND (d.status IN ('pending', 'running') OR e.current_deployment_id = d.id OR e.target_deployment_id = d.id
                  OR EXISTS (SELECT 1 FROM tasks t WHERE t.deployment_id = d.id AND t.state NOT IN ('stopped', 'failed')))"#,
        app as _,
        environment as _
    );
    Ok(query.fetch_all(connection).await?)
}
