//! What an order to start a task needs beyond the core's state: names, the artifact, and sealed variables.

use super::{Store, session};
use sqlx::{PgConnection, PgExecutor, postgres::PgConnectOptions};
use std::{collections::BTreeMap, sync::Arc};
use zectre_common::{
    id::{ApplicationId, ArtifactId, DeploymentId},
    state::{ArtifactKind, ArtifactState},
};

/// A variable of an application or of one of its environments, as stored.
#[derive(Debug, Clone)]
pub struct SealedVariable {
    /// The environment; `None` for all.
    pub environment: Option<String>,
    /// Its name.
    pub key: String,
    /// Its sealed value.
    pub value: Vec<u8>,
}

/// What belongs to the orders of one deployment.
#[derive(Debug, Clone)]
pub struct OrderContext {
    /// Its application.
    pub application_id: ApplicationId,
    /// The application's name.
    pub application: String,
    /// The application's namespace.
    pub namespace: String,
    /// The image.
    pub image: Option<String>,
    /// The artifact: id, kind, hash, size, name; only when its bytes are stored.
    pub artifact: Option<StoredArtifact>,
    /// Those of all environments before those of its own.
    pub variables: Vec<SealedVariable>,
}

/// An artifact whose bytes are stored.
#[derive(Debug, Clone)]
pub struct StoredArtifact {
    /// Its id.
    pub id: ArtifactId,
    /// What it holds.
    pub kind: ArtifactKind,
    /// Of its bytes.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// For the URL.
    pub name: String,
}

/// By deployment.
pub type Contexts = BTreeMap<DeploymentId, Arc<OrderContext>>;

impl Store {
    /// The contexts of these deployments.
    pub async fn order_contexts(&self, ids: &[DeploymentId]) -> Result<Contexts, sqlx::Error> {
        read(&self.pool, ids).await
    }
}

/// Reads contexts on a connection of the leader's own, while the decisions that need them are being saved.
#[derive(Debug)]
pub struct ContextReader {
    options: PgConnectOptions,
    /// `None` after a failed read.
    connection: Option<PgConnection>,
}

impl ContextReader {
    /// Connects.
    pub async fn connect(options: &PgConnectOptions) -> Result<Self, sqlx::Error> {
        let options = session::of_commits(options);
        let connection = Some(sqlx::ConnectOptions::connect(&options).await?);
        Ok(Self { options, connection })
    }

    /// The contexts of these deployments.
    pub async fn read(&mut self, ids: &[DeploymentId]) -> Result<Contexts, sqlx::Error> {
        if ids.is_empty() {
            return Ok(Contexts::new());
        }
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => sqlx::ConnectOptions::connect(&self.options).await?,
        };
        let contexts = read(&mut connection, ids).await?;
        self.connection = Some(connection);
        Ok(contexts)
    }
}

async fn read(executor: impl PgExecutor<'_>, ids: &[DeploymentId]) -> Result<Contexts, sqlx::Error> {
    let rows = sqlx::query!(
            r#"SELECT d.id AS "id!: DeploymentId", d.application_id AS "application_id!: ApplicationId",
                      app.name AS "application!", ns.name AS "namespace!", d.image AS "image?",
                      a.id AS "artifact_id?: ArtifactId", a.kind AS "kind?: ArtifactKind",
                      a.state AS "state?: ArtifactState", a.sha256 AS "sha256?", a.size_bytes AS "size_bytes?",
                      a.name AS "artifact_name?",
                      ARRAY(SELECT v.environment FROM env_vars v WHERE v.application_id = app.id
                               AND (v.environment IS NULL OR v.environment = e.slug)
                             ORDER BY v.environment NULLS FIRST, v.key) AS "environments!: Vec<Option<String>>",
                      ARRAY(SELECT v.key FROM env_vars v WHERE v.application_id = app.id
                               AND (v.environment IS NULL OR v.environment = e.slug)
                             ORDER BY v.environment NULLS FIRST, v.key) AS "keys!",
                      ARRAY(SELECT v.value FROM env_vars v WHERE v.application_id = app.id
                               AND (v.environment IS NULL OR v.environment = e.slug)
                             ORDER BY v.environment NULLS FIRST, v.key) AS "values!"
                 FROM deployments d
                 JOIN environments e ON e.id = d.environment_id
                 JOIN applications app ON app.id = d.application_id
                 JOIN namespaces ns ON ns.id = app.namespace_id
                 -- The build's artifact becomes the deployment's with the commit that starts it, which may be under way.
                 LEFT JOIN builds b ON b.id = d.build_id
                 LEFT JOIN artifacts a ON a.id = COALESCE(d.artifact_id, b.artifact_id)
                WHERE d.id = ANY($1)"#,
            ids as _
        )
        .fetch_all(executor)
        .await?;
    let mut contexts = BTreeMap::new();
    for row in rows {
        let artifact = match (row.artifact_id, row.kind, row.state, row.sha256, row.size_bytes) {
            (Some(id), Some(kind), Some(ArtifactState::Ready), Some(sha256), Some(size)) => {
                Some(StoredArtifact {
                    id,
                    kind,
                    sha256,
                    size: size as u64,
                    name: row.artifact_name.unwrap_or_default(),
                })
            }
            _ => None,
        };
        let variables = row.environments.into_iter().zip(row.keys).zip(row.values);
        let variables = variables
            .map(|((environment, key), value)| SealedVariable {
                environment,
                key,
                value,
            })
            .collect();
        let context = OrderContext {
            application_id: row.application_id,
            application: row.application,
            namespace: row.namespace,
            image: row.image,
            artifact,
            variables,
        };
        contexts.insert(row.id, Arc::new(context));
    }
    Ok(contexts)
}
