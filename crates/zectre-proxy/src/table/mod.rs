//! The routing table: from a host to the deployment that answers it. Pure: built from rows, never changed; the next one is a copy
//! that shares with it what stays.
//!
//! First match wins: a preview label, a domain pinned to a deployment, a domain of an environment, an
//! application's subdomain.

mod balance;
mod rows;
mod shards;
mod site;

pub use balance::{choose, choose_again};
pub use rows::{
    ApplicationRow, Changes, ClaimOf, ClaimRow, DeploymentRow, EnvironmentRow, RouteOf, RouteRow, Rows,
    RowsOf, TaskRow,
};

use crate::live::{Kept, Replica, Shift, Traffic, Woken};
use shards::{Hashed, Shards};
use site::Site;
use std::{collections::HashSet, sync::Arc};
use zectre_common::{
    id::{ApplicationId, DeploymentId, EnvironmentId, TaskId},
    routing::platform_label,
    state::{DeploymentStatus, Reason},
};

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
    /// Where it has no task, that is on purpose: put to sleep, superseded, or with no replicas wanted.
    pub needs_none: bool,
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
            DeploymentStatus::Succeeded if !self.needs_none => Idle::Await,
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

    /// Whether it sleeps: nothing of it runs, and nothing is on its way until a request wakes it.
    pub fn is_asleep(&self) -> bool {
        matches!(self.idle(), Idle::Wake | Idle::Asleep) && !self.has_replicas()
    }

    /// A wake call is under way that will name the first of its replicas.
    pub fn is_being_woken(&self) -> bool {
        !self.has_replicas() && self.traffic.is_being_woken()
    }

    /// It should serve, and nothing of it does.
    pub fn is_down(&self) -> bool {
        self.status == DeploymentStatus::Succeeded && self.idle() == Idle::Await && !self.has_replicas()
    }

    fn has_replicas(&self) -> bool {
        self.with_replicas(|replicas| !replicas.is_empty())
    }
}

/// An environment: which deployment serves, and which one is on its way in.
#[derive(Debug, Default, Clone)]
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

/// The table of one epoch. A copy shares what it does not change.
#[derive(Debug, Default, Clone)]
pub struct Table {
    epoch: u64,
    platform_domain: Arc<str>,
    /// What the maps below were made of, for all but domains.
    sites: Shards<ApplicationId, Arc<Site>>,
    previews: Shards<Arc<str>, DeploymentId>,
    pinned: Shards<Arc<str>, (EnvironmentId, DeploymentId)>,
    domains: Shards<Arc<str>, EnvironmentId>,
    /// The tokens of claimed hosts that lead nowhere yet.
    claims: Shards<Arc<str>, Arc<str>>,
    /// The candidates of an application's subdomain, best first; empty when it has neither.
    subdomains: Shards<Arc<str>, Arc<[EnvironmentId]>>,
    /// Where environments take plain TCP.
    ports: Shards<u16, EnvironmentId>,
    environments: Shards<EnvironmentId, Environment>,
    deployments: Shards<DeploymentId, Arc<Deployment>>,
    /// An application without an environment of these names.
    nowhere: Environment,
}

impl Table {
    /// Builds the table of `rows`, with the live sides that `kept` holds.
    pub fn build(rows: Rows, platform_domain: &str, kept: &mut Kept) -> Self {
        let mut table = Self {
            platform_domain: platform_domain.into(),
            ..Self::default()
        };
        table.put(rows, kept);
        table
    }

    /// The table after `changes`, and what came of tasks and deployments. It costs what the changed applications and domains
    /// do.
    pub fn changed(&self, changes: Changes, kept: &mut Kept) -> (Self, Shift) {
        let mut next = self.clone();
        // All that goes first: a name may have moved from one to another.
        let gone = changes.applications.iter().filter_map(|id| next.take(*id));
        let gone: Vec<_> = gone.collect();
        for domain in changes.domains.iter().map(String::as_str) {
            next.pinned.remove(domain);
            next.domains.remove(domain);
            next.claims.remove(domain);
        }
        next.put(changes.rows, kept);
        let mut shift = Shift::default();
        let here = changes.applications.iter().filter_map(|id| next.sites.get(id));
        shift
            .listed
            .extend(here.flat_map(|site| site.tasks.iter().map(|row| row.id)));
        for site in &gone {
            let unlisted = site.tasks.iter().map(|row| row.id);
            shift
                .unlisted
                .extend(unlisted.filter(|id| !shift.listed.contains(id)));
            let deployments = site.deployments.iter().map(|row| (row.id, row.environment_id));
            shift
                .deployments_gone
                .extend(deployments.filter(|(id, _)| next.deployments.get(id).is_none()));
        }
        (next, shift)
    }

    fn put(&mut self, rows: Rows, kept: &mut Kept) {
        self.epoch = rows.epoch;
        for site in site::group(rows.applications, rows.environments, rows.deployments, rows.tasks) {
            self.put_site(site, kept);
        }
        for route in rows.routes {
            let domain = route.domain.into();
            match route.deployment_id {
                Some(deployment) => self.pinned.insert(domain, (route.environment_id, deployment)),
                None => self.domains.insert(domain, route.environment_id),
            }
        }
        for claim in rows.claims {
            self.claims.insert(claim.domain.into(), claim.token.into());
        }
    }

    fn put_site(&mut self, site: Site, kept: &mut Kept) {
        let deployments = site.deployments(kept);
        for (row, environment) in site.environments.iter().zip(site.environments(&deployments)) {
            self.environments.insert(row.id, environment);
            if let Some(port) = site::port(row) {
                self.ports.insert(port, row.id);
            }
        }
        for (row, deployment) in site.deployments.iter().zip(deployments) {
            self.previews.insert(row.preview_label.as_str().into(), row.id);
            self.deployments.insert(row.id, deployment);
        }
        let subdomain = site.application.subdomain.as_str().into();
        self.subdomains.insert(subdomain, site.candidates());
        self.sites.insert(site.application.id, Arc::new(site));
    }

    /// Takes out all that came of an application's rows.
    fn take(&mut self, application: ApplicationId) -> Option<Arc<Site>> {
        let site = self.sites.remove(&application)?;
        self.subdomains.remove(site.application.subdomain.as_str());
        for row in &site.environments {
            self.environments.remove(&row.id);
            if let Some(port) = site::port(row) {
                self.ports.remove(&port);
            }
        }
        for row in &site.deployments {
            self.previews.remove(row.preview_label.as_str());
            self.deployments.remove(&row.id);
        }
        Some(site)
    }

    /// The rows that it was made of.
    pub fn rows(&self) -> RowsOf<'_> {
        let sites = || self.sites.values();
        let pinned = self
            .pinned
            .iter()
            .map(|(domain, (environment, deployment))| RouteOf {
                domain,
                environment_id: *environment,
                deployment_id: Some(*deployment),
            });
        let domains = self.domains.iter().map(|(domain, environment)| RouteOf {
            domain,
            environment_id: *environment,
            deployment_id: None,
        });
        RowsOf {
            epoch: self.epoch,
            applications: sites().map(|site| &site.application).collect(),
            environments: sites().flat_map(|site| &site.environments).collect(),
            deployments: sites().flat_map(|site| &site.deployments).collect(),
            tasks: sites().flat_map(|site| &site.tasks).collect(),
            routes: pinned.chain(domains).collect(),
            claims: self
                .claims
                .iter()
                .map(|(domain, token)| ClaimOf { domain, token })
                .collect(),
        }
    }

    /// The epoch it was read at; 0 for the empty table before the first read.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Where a normalised host leads.
    pub fn resolve(&self, host: &str) -> Option<Route<'_>> {
        let label = platform_label(host, &self.platform_domain).map(Hashed::new);
        let host = Hashed::new(host);
        let preview = label.as_ref().and_then(|label| self.previews.get_hashed(label));
        if let Some(deployment) = preview
            .or_else(|| self.pinned.get_hashed(&host).map(|(_, deployment)| deployment))
            .and_then(|id| self.deployments.get(id))
        {
            return Some(Route::Pinned(deployment));
        }
        if let Some(environment) = self
            .domains
            .get_hashed(&host)
            .and_then(|id| self.environments.get(id))
        {
            return Some(Route::Environment(environment));
        }
        let candidates = self.subdomains.get_hashed(&label?)?;
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
        self.claims.get(host).map(|token| &**token)
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
        let under_platform = |label: &Arc<str>| format!("{label}.{}", self.platform_domain);
        let previews = self.previews.keys().map(under_platform);
        let subdomains = self.subdomains.keys().map(under_platform);
        let domains = self.pinned.keys().chain(self.domains.keys());
        let domains = domains.map(ToString::to_string);
        previews.chain(subdomains).chain(domains).map(|host| {
            let serving = self
                .resolve(&host)
                .and_then(|route| route.deployment(0))
                .map(|deployment| deployment.id);
            (host, serving)
        })
    }

    /// Tells the ledger that this table serves now.
    pub fn settle(&self, kept: &mut Kept) {
        let routed = self
            .deployments
            .values()
            .flat_map(|deployment| &deployment.routed);
        let tasks: HashSet<TaskId> = routed.map(|replica| replica.task()).collect();
        kept.settle(self.epoch, &tasks, &self.deployments.keys().copied().collect());
    }
}

#[cfg(test)]
mod tests;
