//! A proxy of its own over a database of its own, and the rows that the API and the scheduler would write.

use crate::origin::Origin;
use secrecy::ExposeSecret;
use sqlx::PgPool;
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use tokio::task::JoinSet;
use zectre_common::{
    config::Config,
    id::{ApplicationId, CustomDomainId, DeploymentId, EnvironmentId, NamespaceId, NodeId, ProxyId, TaskId},
};
use zectre_proxy::{Error, Service};
use zectre_service::{
    key::{Keys, ServiceKey},
    tasks::Shutdown,
};
use zectre_testkit::{TestDatabase, wait_until};

/// Nothing that is waited for takes longer, on a machine that does much else, too.
pub(crate) const SOON: Duration = Duration::from_secs(60);
const NAMESPACE: NamespaceId = NamespaceId::from_uuid(uuid::uuid!("01900000-0000-7000-8000-000000000002"));

pub(crate) struct World {
    pub(crate) database: TestDatabase,
    pub(crate) pool: PgPool,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) key: ServiceKey,
    overrides: String,
}

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<SocketAddr>,
    #[cfg(feature = "http3")]
    pub(crate) http3: Option<SocketAddr>,
    pub(crate) admin: SocketAddr,
    pub(crate) shutdown: Shutdown,
    service: JoinSet<Result<(), Error>>,
}

/// One application with one environment and one deployment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct App {
    pub(crate) environment: EnvironmentId,
    pub(crate) deployment: DeploymentId,
}

impl World {
    pub(crate) async fn new() -> Self {
        let database = TestDatabase::create().await;
        let pool = database.pool().await;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("service.key");
        zectre_service::key::ensure_key_file(&path).expect("a key");
        let secrets = Config::load_with(
            None,
            &format!("[secrets]\nservice_key_file = \"{}\"", path.display()),
        );
        let keys = Keys::load(&secrets.expect("valid").secrets).expect("readable");
        let key = keys.service().expect("just made");
        Self {
            database,
            pool,
            directory,
            key,
            overrides: String::new(),
        }
    }

    /// More configuration, as TOML, for proxies started from now on.
    pub(crate) fn configure(&mut self, toml: &str) {
        toml.clone_into(&mut self.overrides);
    }

    pub(crate) fn snapshot_path(&self) -> PathBuf {
        self.directory.path().join("routes.json")
    }

    pub(crate) fn config(&self) -> Config {
        let mut config = Config::load_with(None, &self.overrides).expect("valid");
        config.database.url = self.database.url().expose_secret().to_owned().into();
        config.database.connections_max = 4;
        config.secrets.service_key_file = self.directory.path().join("service.key");
        config.secrets.metrics_token_file = zectre_testkit::metrics_token_file(self.directory.path());
        (config.proxy.port, config.proxy.admin_port) = (0, 0);
        config.proxy.tls.port = 0;
        config
    }

    /// A proxy that has read the table.
    pub(crate) async fn start(&self) -> Running {
        let running = Running::start(&self.config()).await;
        let epoch = self.epoch().await;
        self.applied(epoch).await;
        running
    }

    pub(crate) async fn epoch(&self) -> i64 {
        sqlx::query_scalar!("SELECT epoch FROM routing_epoch")
            .fetch_one(&self.pool)
            .await
            .expect("one row")
    }

    /// Raises the epoch and waits until the proxy routes by it.
    pub(crate) async fn publish(&self) -> i64 {
        let epoch = self.raise().await;
        self.applied(epoch).await;
        epoch
    }

    pub(crate) async fn raise(&self) -> i64 {
        let epoch = sqlx::query_scalar!("SELECT raise_routing_epoch()")
            .fetch_one(&self.pool)
            .await;
        epoch.expect("it raises").expect("to a number")
    }

    pub(crate) async fn applied(&self, epoch: i64) {
        wait_until(SOON, "the proxy applies the epoch", || async move {
            self.acknowledged().await.filter(|(applied, _)| *applied >= epoch)
        })
        .await;
    }

    /// (applied, drained) of the one proxy that runs: a second one may have left its row.
    pub(crate) async fn acknowledged(&self) -> Option<(i64, i64)> {
        let row = sqlx::query!(
            "SELECT applied_epoch, drained_epoch FROM proxies ORDER BY lease_expires_at DESC LIMIT 1"
        )
        .fetch_optional(&self.pool)
        .await;
        row.expect("readable")
            .map(|row| (row.applied_epoch, row.drained_epoch))
    }

    pub(crate) async fn in_flight(&self, deployment: DeploymentId) -> Option<i32> {
        let row = sqlx::query_scalar!(
            "SELECT in_flight FROM deployment_activity
              WHERE deployment_id = $1 AND last_active_at BETWEEN now() - interval '15 s' AND now()",
            deployment as _
        );
        row.fetch_optional(&self.pool).await.expect("readable")
    }

    pub(crate) async fn environment(&self, name: &str, slug: &str) -> (ApplicationId, EnvironmentId) {
        let (application, environment) = (ApplicationId::new(), EnvironmentId::new());
        sqlx::query!(
            "INSERT INTO applications (id, namespace_id, name, subdomain) VALUES ($1, $2, $3, $3 || '-default')
             ON CONFLICT DO NOTHING",
            application as _,
            NAMESPACE as _,
            name
        )
        .execute(&self.pool)
        .await
        .expect("inserted");
        let application = sqlx::query_scalar!("SELECT id FROM applications WHERE name = $1", name);
        let application = application.fetch_one(&self.pool).await.expect("there");
        sqlx::query!(
            "INSERT INTO environments (id, application_id, slug) VALUES ($1, $2, $3)",
            environment as _,
            application as _,
            slug
        )
        .execute(&self.pool)
        .await
        .expect("inserted");
        (application, environment)
    }

    pub(crate) async fn deployment(
        &self,
        application: ApplicationId,
        environment: EnvironmentId,
        label: &str,
    ) -> DeploymentId {
        let id = DeploymentId::new();
        sqlx::query!(
            "INSERT INTO deployments (id, application_id, environment_id, version, spec, preview_label, replicas,
                                      idle_timeout_secs, cold_start_enabled, status)
             SELECT $1, $2, $3, count(*) + 1, '{}', $4, 1, 300, true, 'succeeded' FROM deployments WHERE application_id = $2",
            id as _,
            application as _,
            environment as _,
            label
        )
        .execute(&self.pool)
        .await
        .expect("inserted");
        id
    }

    /// `name-default` answers with a deployment of its production environment; no task yet.
    pub(crate) async fn app(&self, name: &str) -> App {
        let (application, environment) = self.environment(name, "production").await;
        let deployment = self
            .deployment(application, environment, &format!("{name}-preview"))
            .await;
        self.make_current(environment, deployment).await;
        App {
            environment,
            deployment,
        }
    }

    /// A domain that an environment's application claims with `token`, and holds when `verified`.
    pub(crate) async fn claim(&self, environment: EnvironmentId, domain: &str, token: &str, verified: bool) {
        let claim = sqlx::query(
            "INSERT INTO custom_domains (id, domain, application_id, environment_id, token, proof, verified_at, expires_at)
             SELECT $1, $2, application_id, id, $3, CASE WHEN $4 THEN 'dns' END, CASE WHEN $4 THEN now() END,
                    now() + interval '1 hour'
             FROM environments WHERE id = $5",
        );
        let claim = claim.bind(CustomDomainId::new()).bind(domain).bind(token);
        let claim = claim.bind(verified).bind(environment);
        claim.execute(&self.pool).await.expect("inserted");
    }

    pub(crate) async fn make_current(&self, environment: EnvironmentId, deployment: DeploymentId) {
        sqlx::query!(
            "UPDATE environments SET current_deployment_id = $2 WHERE id = $1",
            environment as _,
            deployment as _
        )
        .execute(&self.pool)
        .await
        .expect("updated");
    }

    /// An application with one routed task at each origin.
    pub(crate) async fn app_at(&self, name: &str, origins: &[&Origin]) -> App {
        let app = self.app(name).await;
        for origin in origins {
            self.task(app.deployment, origin.address).await;
        }
        app
    }

    pub(crate) async fn sleep(&self, deployment: DeploymentId) {
        sqlx::query!(
            "UPDATE deployments SET asleep = true WHERE id = $1",
            deployment as _
        )
        .execute(&self.pool)
        .await
        .expect("updated");
    }

    pub(crate) async fn task(&self, deployment: DeploymentId, address: SocketAddr) -> TaskId {
        let id = TaskId::new();
        sqlx::query!(
            "INSERT INTO tasks (id, deployment_id, slot, node_id, state, wanted, address, port, healthy, routed)
             VALUES ($1, $2, 0, $3, 'running', 'run', $4, $5, true, true)",
            id as _,
            deployment as _,
            None::<NodeId> as _,
            address.ip().to_string(),
            i32::from(address.port())
        )
        .execute(&self.pool)
        .await
        .expect("inserted");
        id
    }

    pub(crate) async fn unroute(&self, task: TaskId) {
        sqlx::query!("UPDATE tasks SET routed = false WHERE id = $1", task as _)
            .execute(&self.pool)
            .await
            .expect("updated");
    }

    pub(crate) async fn proxies(&self) -> Vec<ProxyId> {
        let rows = sqlx::query_scalar!("SELECT id FROM proxies WHERE lease_expires_at > now()")
            .fetch_all(&self.pool)
            .await;
        rows.expect("readable")
    }
}

impl Running {
    /// A proxy that may know no table yet.
    pub(crate) async fn start(config: &Config) -> Self {
        let service = Service::new(config).await.expect("it starts");
        let (address, admin, shutdown) = (service.address(), service.admin_address(), Shutdown::new());
        let tls = service.tls_address();
        #[cfg(feature = "http3")]
        let http3 = service.http3_address();
        let mut running = JoinSet::new();
        running.spawn(service.run(shutdown.clone()));
        Self {
            address,
            tls,
            #[cfg(feature = "http3")]
            http3,
            admin,
            shutdown,
            service: running,
        }
    }

    /// Stops it in order.
    pub(crate) async fn stop(mut self) {
        self.shutdown.request();
        self.ended().await;
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) {
        let ended = tokio::time::timeout(SOON, self.service.join_next())
            .await
            .expect("it ends in time");
        ended
            .expect("it ran")
            .expect("it did not panic")
            .expect("it ended well");
    }
}
