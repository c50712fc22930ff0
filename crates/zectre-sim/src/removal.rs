//! People delete: nodes and applications, and what goes with their rows.

use crate::{
    operator::Application,
    sim::{Act, SECOND, Sim, note},
    trace::short,
};
use std::collections::BTreeSet;
use zectre_common::{
    id::{DeploymentId, EnvironmentId, NodeId},
    state::OperationKind,
};

impl Sim {
    /// A node without tasks can be deleted; its agent joins again under a new id.
    pub(crate) fn delete_node(&mut self) {
        let free: Vec<NodeId> = self.free_nodes().into_iter().collect();
        if let Some(id) = self.random.pick(&free) {
            note!(self, "node {} is deleted", short(id.get()));
            self.remove_node_row(id);
            self.ask(OperationKind::Node, None, None, Some(id));
        }
    }

    /// Nodes without tasks, by the rows.
    pub(crate) fn free_nodes(&self) -> BTreeSet<NodeId> {
        let is_free = |id: &NodeId| {
            let of = |task: &&zectre_scheduler_core::Task| task.node_id == Some(*id);
            !self
                .database
                .tasks
                .values()
                .filter(of)
                .any(|task| !task.state.is_ended())
        };
        self.database.nodes.keys().copied().filter(is_free).collect()
    }

    pub(crate) fn remove_node_row(&mut self, id: NodeId) {
        self.database.nodes.remove(&id);
        let tasks = self.database.tasks.values_mut();
        for task in tasks.filter(|task| task.node_id == Some(id)) {
            task.node_id = None;
        }
    }

    pub(crate) fn delete_application(&mut self) {
        let now_us = self.now_us;
        let live = |app: &&mut Application| app.deleted_us.is_none();
        let all: Vec<&mut Application> = self.operator.applications.iter_mut().filter(live).collect();
        let index = self.random.below(all.len());
        let Some(app) = all.into_iter().nth(index) else {
            return;
        };
        app.deleted_us = Some(now_us);
        let (id, environments) = (app.id, app.environments.clone());
        note!(self, "application {} is deleted", short(id.get()));
        let involved: Vec<DeploymentId> = self
            .database
            .deployments
            .values()
            .filter(|d| environments.contains(&d.environment_id))
            .filter(|d| {
                let environment = self.database.environments.get(&d.environment_id);
                !d.status.is_ended()
                    || environment.is_some_and(|e| [e.current, e.target].contains(&Some(d.id)))
                    || self.database.live_tasks_of(d.id).next().is_some()
            })
            .map(|d| d.id)
            .collect();
        for id in involved {
            self.ask(OperationKind::Delete, Some(id), None, None);
        }
        self.database.routing_epoch += 1;
        self.notify_routing();
        self.found_application();
    }

    /// The rows of what was deleted go a minute later, once nothing of it runs.
    pub(crate) fn purge_deleted(&mut self) {
        self.after(20 * SECOND, Act::Purge);
        let (now_us, now) = (self.now_us, self.clock(0));
        let minute = std::time::Duration::from_mins(1);
        let old = |app: &&Application| app.deleted_us.is_some_and(|at_us| now_us - at_us > 60 * SECOND);
        let environments: BTreeSet<EnvironmentId> = self
            .operator
            .applications
            .iter()
            .filter(old)
            .flat_map(|app| app.environments.iter().copied())
            .collect();
        for environment in environments {
            let all = self.database.deployments.values();
            let of: Vec<DeploymentId> = all
                .filter(|d| d.environment_id == environment)
                .map(|d| d.id)
                .collect();
            let tasks = self.database.tasks.values();
            let lives = tasks.filter(|task| of.contains(&task.deployment_id)).any(|task| {
                !task.state.is_ended() || task.finished_at.is_some_and(|at| now.since(at) < minute)
            });
            if lives || self.database.is_down || self.database.environments.remove(&environment).is_none() {
                continue;
            }
            note!(
                self,
                "the rows of environment {} are gone",
                short(environment.get())
            );
            for id in of {
                self.database.delete_deployment(id);
            }
        }
    }
}
