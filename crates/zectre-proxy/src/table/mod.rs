//! The routing table: from a host to the deployment that answers it. Pure: built from rows, never changed.
//!
//! First match wins: a preview label, a domain pinned to a deployment, a domain of an environment, an
//! application's subdomain.

mod balance;
mod rows;

pub use balance::{choose, choose_again};
pub use rows::{ApplicationRow, ClaimRow, DeploymentRow, EnvironmentRow, RouteRow, Rows, TaskRow};

use crate::live::{Kept, Replica, RouteName, Traffic, Woken};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};
use zectre_common::{
    id::{ApplicationId, DeploymentId, EnvironmentId, TaskId},
    routing::platform_label,
    state::{DeploymentStatus, Reason},
};

/// The environment that an application's subdomain leads to, and the one it falls back to.
const SUBDOMAIN_ENVIRONMENTS: [&str; 2] = ["production", "development"];

/// A deployment that may be asked for.
#[derive(Debug)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Counts up within the application.
    pub version: i32,
    /// How its rollout went.
    pub status: DeploymentStatus,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// Whether a request may wake it.
    pub cold_start_enabled: bool,
    /// Whether its tasks speak HTTP/2.
    pub http2: bool,
    /// Whether its tasks speak plain TCP.
    pub raw: bool,
    /// Whether visitors come back to the same task.
    pub affinity: bool,
    /// Whether it runs to completion and serves nothing.
    pub job: bool,
    /// Without tasks on purpose.
    pub asleep: bool,
    /// Tasks that requests may be sent to.
    pub routed: Vec<Arc<Replica>>,
    /// Its live side.
    pub traffic: Arc<Traffic>,
}

/// What becomes of a request for a deployment without a usable replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Wake it and wait.
    Wake,
    /// A replica is on its way: wait for the table.
    Await,
    /// Asleep, and not to be woken by requests.
    Asleep,
    /// Its rollout failed or was cancelled.
    Failed,
    /// It waits for a build, an artifact or a place.
    Pending,
    /// It runs to completion: nothing of it ever serves.
    Job,
}

impl Deployment {
    /// What a request finds when nothing is routed.
    pub fn idle(&self) -> Idle {
        match self.status {
            _ if self.job => Idle::Job,
            DeploymentStatus::Pending => Idle::Pending,
            DeploymentStatus::Failed | DeploymentStatus::Cancelled => Idle::Failed,
            DeploymentStatus::Running => Idle::Await,
            DeploymentStatus::Succeeded if !self.asleep => Idle::Await,
            DeploymentStatus::Succeeded if self.cold_start_enabled => Idle::Wake,
            DeploymentStatus::Succeeded => Idle::Asleep,
        }
    }

    /// Runs `with` on the replicas that may be tried: those of the table, else those of a wake that the
    /// table doesn't know of yet.
    pub fn with_replicas<T>(&self, with: impl FnOnce(&[Arc<Replica>]) -> T) -> T {
        if !self.routed.is_empty() {
            return with(&self.routed);
        }
        let woken: Option<Arc<Woken>> = self.traffic.woken();
        with(woken.as_deref().map_or(&[], |woken| &woken.replicas))
    }

    fn has_replicas(&self) -> bool {
        self.with_replicas(|replicas| !replicas.is_empty())
    }
}

/// An environment: which deployment serves, and which one is on its way in.
#[derive(Debug, Default)]
pub struct Environment {
    /// Serves.
    pub current: Option<Arc<Deployment>>,
    /// Is being rolled out.
    pub target: Option<Arc<Deployment>>,
    /// Percent of the traffic that `target` gets already.
    pub target_weight: u64,
    /// The last one made, which explains why nothing serves.
    pub newest: Option<Arc<Deployment>>,
}

impl Environment {
    /// Whether any of its deployments that matter speaks plain TCP.
    fn is_raw(&self) -> bool {
        let mut all = [&self.current, &self.target, &self.newest].into_iter().flatten();
        all.any(|deployment| deployment.raw)
    }

    /// The deployment for one request; `roll` is a random number.
    fn choose(&self, roll: u64) -> Option<&Arc<Deployment>> {
        let (Some(current), Some(target)) = (&self.current, &self.target) else {
            let only = self
                .current
                .as_ref()
                .or(self.target.as_ref().filter(|target| target.has_replicas()));
            return only.or(self.newest.as_ref());
        };
        // The low bits choose the replica (see `balance`); these choose the deployment.
        let share = (roll >> 32) % 100;
        let (first, second) = if share < self.target_weight {
            (target, current)
        } else {
            (current, target)
        };
        // With a share of the traffic given away, a side without replicas lets the other one answer.
        let instead = self.target_weight > 0 && !first.has_replicas() && second.has_replicas();
        Some(if instead { second } else { first })
    }
}

/// Where a host leads.
#[derive(Debug, Clone, Copy)]
pub enum Route<'t> {
    /// To one deployment, current or not.
    Pinned(&'t Arc<Deployment>),
    /// To what serves in an environment.
    Environment(&'t Environment),
}

impl<'t> Route<'t> {
    /// The deployments that visitors may come back to.
    pub fn affine(self) -> impl Iterator<Item = &'t Arc<Deployment>> {
        let (first, second) = match self {
            Self::Pinned(deployment) => (Some(deployment), None),
            Self::Environment(environment) => {
                let target = environment
                    .target
                    .as_ref()
                    .filter(|_| environment.target_weight > 0);
                (environment.current.as_ref(), target)
            }
        };
        first
            .into_iter()
            .chain(second)
            .filter(|deployment| deployment.affinity)
    }

    /// The deployment for one request; `None` when nothing was ever deployed there.
    pub fn deployment(self, roll: u64) -> Option<&'t Arc<Deployment>> {
        match self {
            Self::Pinned(deployment) => Some(deployment),
            Self::Environment(environment) => environment.choose(roll),
        }
    }
}

/// The table of one epoch.
#[derive(Debug, Default)]
pub struct Table {
    epoch: u64,
    platform_domain: String,
    previews: HashMap<String, DeploymentId>,
    pinned: HashMap<String, DeploymentId>,
    domains: HashMap<String, EnvironmentId>,
    /// The tokens of claimed hosts that lead nowhere yet.
    claims: HashMap<String, String>,
    /// The candidates of an application's subdomain, best first; empty when it has neither.
    subdomains: HashMap<String, Vec<EnvironmentId>>,
    /// Where environments take plain TCP.
    ports: HashMap<u16, EnvironmentId>,
    environments: HashMap<EnvironmentId, Environment>,
    deployments: HashMap<DeploymentId, Arc<Deployment>>,
    /// An application without an environment of these names.
    nowhere: Environment,
}

impl Table {
    /// Builds the table of `rows`, with the live sides that `kept` holds.
    pub fn build(rows: &Rows, platform_domain: &str, kept: &mut Kept) -> Self {
        let deployments = build_deployments(rows, kept);
        let mut newest: HashMap<EnvironmentId, &Arc<Deployment>> = HashMap::new();
        for row in &rows.deployments {
            let deployment = &deployments[&row.id];
            let slot = newest.entry(row.environment_id).or_insert(deployment);
            if deployment.version > slot.version {
                *slot = deployment;
            }
        }
        let known = |id: Option<DeploymentId>| id.and_then(|id| deployments.get(&id).cloned());
        let environment = |row: &EnvironmentRow| Environment {
            current: known(row.current_deployment_id),
            target: known(row.target_deployment_id),
            target_weight: row.target_weight.map_or(0, |weight| weight.clamp(0, 100) as u64),
            newest: newest.get(&row.id).map(|newest| Arc::clone(newest)),
        };
        let (pinned, domains): (Vec<_>, Vec<_>) = rows
            .routes
            .iter()
            .partition(|route| route.deployment_id.is_some());
        Self {
            epoch: rows.epoch,
            platform_domain: platform_domain.to_owned(),
            previews: rows
                .deployments
                .iter()
                .map(|row| (row.preview_label.clone(), row.id))
                .collect(),
            pinned: pinned
                .iter()
                .filter_map(|r| Some((r.domain.clone(), r.deployment_id?)))
                .collect(),
            domains: domains
                .iter()
                .map(|route| (route.domain.clone(), route.environment_id))
                .collect(),
            claims: rows
                .claims
                .iter()
                .map(|claim| (claim.domain.clone(), claim.token.clone()))
                .collect(),
            subdomains: build_subdomains(rows),
            ports: rows
                .environments
                .iter()
                .filter_map(|row| Some((u16::try_from(row.public_port?).ok()?, row.id)))
                .collect(),
            environments: rows
                .environments
                .iter()
                .map(|row| (row.id, environment(row)))
                .collect(),
            deployments,
            nowhere: Environment::default(),
        }
    }

    /// The epoch it was read at; 0 for the empty table before the first read.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Where a normalised host leads.
    pub fn resolve(&self, host: &str) -> Option<Route<'_>> {
        let label = platform_label(host, &self.platform_domain);
        let preview = label.and_then(|label| self.previews.get(label));
        if let Some(deployment) = preview
            .or_else(|| self.pinned.get(host))
            .and_then(|id| self.deployments.get(id))
        {
            return Some(Route::Pinned(deployment));
        }
        if let Some(environment) = self.domains.get(host).and_then(|id| self.environments.get(id)) {
            return Some(Route::Environment(environment));
        }
        let candidates = self.subdomains.get(label?)?;
        let environments = || candidates.iter().filter_map(|id| self.environments.get(id));
        let serving = environments().find(|environment| environment.current.is_some());
        let deployed = || environments().find(|environment| environment.newest.is_some());
        Some(Route::Environment(
            serving.or_else(deployed).unwrap_or(&self.nowhere),
        ))
    }

    /// Where a port leads.
    pub fn at_port(&self, port: u16) -> Option<Route<'_>> {
        let environment = self.environments.get(self.ports.get(&port)?)?;
        Some(Route::Environment(environment))
    }

    /// The ports at which something may be spoken, in no order.
    pub fn raw_ports(&self) -> impl Iterator<Item = u16> {
        let is_raw = |(port, id): (&u16, &EnvironmentId)| {
            let environment = self.environments.get(id)?;
            environment.is_raw().then_some(*port)
        };
        self.ports.iter().filter_map(is_raw)
    }

    /// The token whose page a host that leads nowhere must show for the one who claims it.
    pub fn claim(&self, host: &str) -> Option<&str> {
        self.claims.get(host).map(String::as_str)
    }

    /// One deployment.
    pub fn deployment(&self, id: DeploymentId) -> Option<&Arc<Deployment>> {
        self.deployments.get(&id)
    }

    /// All deployments, in no order.
    pub fn deployments(&self) -> impl Iterator<Item = &Arc<Deployment>> {
        self.deployments.values()
    }

    /// Every host it answers with the deployment that serves there now, in no order.
    pub fn hosts(&self) -> impl Iterator<Item = (String, Option<DeploymentId>)> {
        let under_platform = |label: &String| format!("{label}.{}", self.platform_domain);
        let previews = self.previews.keys().map(under_platform);
        let subdomains = self.subdomains.keys().map(under_platform);
        let domains = self.pinned.keys().chain(self.domains.keys()).cloned();
        previews.chain(subdomains).chain(domains).map(|host| {
            let serving = self
                .resolve(&host)
                .and_then(|route| route.deployment(0))
                .map(|deployment| deployment.id);
            (host, serving)
        })
    }

    /// Tells the ledger that this table serves now; `read_from` is when its reading began.
    pub fn settle(&self, kept: &mut Kept, read_from: Instant) {
        let routed = self
            .deployments
            .values()
            .flat_map(|deployment| &deployment.routed);
        let tasks: HashSet<TaskId> = routed.map(|replica| replica.task()).collect();
        kept.settle(
            self.epoch,
            read_from,
            &tasks,
            &self.deployments.keys().copied().collect(),
        );
    }
}

fn build_deployments(rows: &Rows, kept: &mut Kept) -> HashMap<DeploymentId, Arc<Deployment>> {
    let mut tasks: HashMap<DeploymentId, Vec<&TaskRow>> = HashMap::new();
    for task in &rows.tasks {
        tasks.entry(task.deployment_id).or_default().push(task);
    }
    let wanted = rows
        .environments
        .iter()
        .flat_map(|row| [row.current_deployment_id, row.target_deployment_id]);
    let wanted: HashSet<DeploymentId> = wanted.flatten().collect();
    let environments: HashMap<EnvironmentId, &EnvironmentRow> =
        rows.environments.iter().map(|row| (row.id, row)).collect();
    let applications: HashMap<ApplicationId, &ApplicationRow> =
        rows.applications.iter().map(|row| (row.id, row)).collect();
    let name = |id: &EnvironmentId| {
        let environment = environments.get(id);
        let application = environment.and_then(|row| applications.get(&row.application_id));
        RouteName {
            app: application.map_or("", |row| &row.subdomain).into(),
            environment: environment.map_or("", |row| &row.slug).into(),
        }
    };
    let mut build = |row: &DeploymentRow| {
        let routed = tasks.remove(&row.id).unwrap_or_default();
        let traffic = kept.traffic(row.id, row.version, row.environment_id, || {
            name(&row.environment_id)
        });
        Arc::new(Deployment {
            id: row.id,
            version: row.version,
            status: row.status,
            reason: row.reason.as_deref().and_then(|reason| reason.parse().ok()),
            cold_start_enabled: row.cold_start_enabled,
            http2: row.http2,
            raw: row.raw,
            affinity: row.affinity,
            job: row.job,
            // A superseded deployment and one with no replicas wanted run nothing either.
            asleep: row.asleep || row.replicas == 0 || !wanted.contains(&row.id),
            routed: routed
                .iter()
                .map(|t| kept.replica_on(t.node_id, &traffic, t.id, (&t.address, t.port), row.http2))
                .collect(),
            traffic,
        })
    };
    rows.deployments.iter().map(|row| (row.id, build(row))).collect()
}

fn build_subdomains(rows: &Rows) -> HashMap<String, Vec<EnvironmentId>> {
    let named = |row: &&EnvironmentRow| SUBDOMAIN_ENVIRONMENTS.contains(&row.slug.as_str());
    let mut environments: HashMap<ApplicationId, Vec<&EnvironmentRow>> = HashMap::new();
    for row in rows.environments.iter().filter(named) {
        environments.entry(row.application_id).or_default().push(row);
    }
    let rank = |row: &&EnvironmentRow| SUBDOMAIN_ENVIRONMENTS.iter().position(|slug| row.slug == *slug);
    let mut candidates = |application: ApplicationId| {
        let mut found = environments.remove(&application).unwrap_or_default();
        found.sort_by_key(rank);
        found.iter().map(|row| row.id).collect()
    };
    rows.applications
        .iter()
        .map(|row| (row.subdomain.clone(), candidates(row.id)))
        .collect()
}

#[cfg(test)]
mod tests;
