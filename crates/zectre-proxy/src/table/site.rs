//! The rows of one application, the part of a table that is built anew when any of them changed.

use super::{
    Deployment, Environment,
    rows::{ApplicationRow, DeploymentRow, EnvironmentRow, TaskRow},
};
use crate::live::{Kept, RouteName};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use zectre_common::id::{ApplicationId, DeploymentId, EnvironmentId};

/// The environment that an application's subdomain leads to, and the one it falls back to.
const SUBDOMAIN_ENVIRONMENTS: [&str; 2] = ["production", "development"];

/// One application's rows, each kind in the order of ids.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) application: ApplicationRow,
    pub(super) environments: Box<[EnvironmentRow]>,
    pub(super) deployments: Box<[DeploymentRow]>,
    pub(super) tasks: Box<[TaskRow]>,
}

/// Rows by application; what belongs to none is left out.
pub(super) fn group(
    applications: Vec<ApplicationRow>,
    environments: Vec<EnvironmentRow>,
    deployments: Vec<DeploymentRow>,
    tasks: Vec<TaskRow>,
) -> impl Iterator<Item = Site> {
    let of_environment: HashMap<EnvironmentId, ApplicationId> = environments
        .iter()
        .map(|row| (row.id, row.application_id))
        .collect();
    let of_deployment: HashMap<DeploymentId, ApplicationId> = deployments
        .iter()
        .filter_map(|row| Some((row.id, *of_environment.get(&row.environment_id)?)))
        .collect();
    let mut environments = by(environments, |row| Some(row.application_id));
    let mut deployments = by(deployments, |row| of_deployment.get(&row.id).copied());
    let mut tasks = by(tasks, |row| of_deployment.get(&row.deployment_id).copied());
    applications.into_iter().map(move |application| Site {
        environments: sorted(environments.remove(&application.id), |row| row.id),
        deployments: sorted(deployments.remove(&application.id), |row| row.id),
        tasks: sorted(tasks.remove(&application.id), |row| row.id),
        application,
    })
}

fn by<R>(rows: Vec<R>, of: impl Fn(&R) -> Option<ApplicationId>) -> HashMap<ApplicationId, Vec<R>> {
    let mut all: HashMap<_, Vec<R>> = HashMap::new();
    for row in rows {
        if let Some(application) = of(&row) {
            all.entry(application).or_default().push(row);
        }
    }
    all
}

fn sorted<R, K: Ord>(rows: Option<Vec<R>>, id: impl Fn(&R) -> K) -> Box<[R]> {
    let mut rows = rows.unwrap_or_default();
    rows.sort_by_key(id);
    rows.into()
}

impl Site {
    /// What its deployments are to requests, in the order of their rows, with the live sides that `kept` holds.
    pub(super) fn deployments(&self, kept: &mut Kept) -> Vec<Arc<Deployment>> {
        let wanted = self
            .environments
            .iter()
            .flat_map(|row| [row.current_deployment_id, row.target_deployment_id]);
        let wanted: HashSet<DeploymentId> = wanted.flatten().collect();
        let mut tasks: HashMap<DeploymentId, Vec<&TaskRow>> = HashMap::new();
        for task in &self.tasks {
            tasks.entry(task.deployment_id).or_default().push(task);
        }
        let build = |row: &DeploymentRow| {
            let traffic = kept.traffic(row.id, row.version, row.environment_id, || {
                self.route_name(row.environment_id)
            });
            let routed = tasks.remove(&row.id).unwrap_or_default();
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
                needs_none: row.asleep || row.replicas == 0 || !wanted.contains(&row.id),
                routed: routed
                    .iter()
                    .map(|t| kept.replica_on(t.node_id, &traffic, t.id, (&t.address, t.port), row.http2))
                    .collect(),
                traffic,
            })
        };
        self.deployments.iter().map(build).collect()
    }

    fn route_name(&self, environment: EnvironmentId) -> RouteName {
        let row = self.environments.iter().find(|row| row.id == environment);
        RouteName {
            app: self.application.subdomain.as_str().into(),
            environment: row.map_or("", |row| &row.slug).into(),
        }
    }

    /// What its environments are to requests, in the order of their rows; `deployments` are those of its own.
    pub(super) fn environments(&self, deployments: &[Arc<Deployment>]) -> Vec<Environment> {
        let known = |id: Option<DeploymentId>| {
            let found = deployments.iter().find(|deployment| Some(deployment.id) == id);
            found.cloned()
        };
        let newest = |environment: EnvironmentId| {
            let all = self.deployments.iter().zip(deployments);
            let here = all.filter(|(row, _)| row.environment_id == environment);
            let newest = here.max_by_key(|(row, _)| row.version);
            newest.map(|(_, deployment)| Arc::clone(deployment))
        };
        let environment = |row: &EnvironmentRow| Environment {
            current: known(row.current_deployment_id),
            target: known(row.target_deployment_id),
            target_weight: row.target_weight.map_or(0, |weight| weight.clamp(0, 100) as u64),
            newest: newest(row.id),
        };
        self.environments.iter().map(environment).collect()
    }

    /// The environments that its subdomain may lead to, best first; empty when it has neither.
    pub(super) fn candidates(&self) -> Arc<[EnvironmentId]> {
        let of = |slug: &&str| {
            let found = self.environments.iter().find(|row| row.slug == *slug);
            found.map(|row| row.id)
        };
        SUBDOMAIN_ENVIRONMENTS.iter().filter_map(of).collect()
    }
}

/// Where an environment takes plain TCP.
pub(super) fn port(row: &EnvironmentRow) -> Option<u16> {
    u16::try_from(row.public_port?).ok()
}
