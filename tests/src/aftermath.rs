//! After the chaos: everything has come to an end, and the database, the agents and the machine say the same.

use crate::{Hosts, hosts::NODES, process::variable, store};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use tokio::time::interval;
use zectre_common::id::NodeId;
use zectre_service::{
    key::{ServiceKey, from_hex, node_key},
    token::{self, name},
};

/// A state ends within its own deadline; the longest one here is a drain on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is wrong now, in words.
type Complaints = Vec<String>;

impl Hosts {
    /// Waits until nothing is between states and all accounts of what runs agree; panics with what is wrong.
    pub async fn expect_settled(&self) {
        let began = Instant::now();
        let mut looks = interval(LOOK_EVERY);
        loop {
            looks.tick().await;
            let complaints = self.complaints().await;
            if complaints.is_empty() {
                return;
            }
            assert!(
                began.elapsed() < DEADLINE,
                "{DEADLINE:?} after the last fault:\n  {}",
                complaints.join("\n  ")
            );
        }
    }

    async fn complaints(&self) -> Complaints {
        let pool = self.pool().await;
        let tasks = store::tasks(&pool).await;
        let mut complaints = of_deployments(&store::deployments(&pool).await, &tasks);
        complaints.extend(of_tasks(&tasks));
        complaints.extend(of_holds(&store::holds(&pool).await));
        for (node, id) in store::nodes(&pool).await {
            let stored = running(&tasks, &node);
            let told = match self.told_by_agent(&node, &id).await {
                Ok(told) => told,
                Err(why) => {
                    complaints.push(format!("the agent of {node} does not tell its tasks: {why}"));
                    continue;
                }
            };
            if told != stored {
                complaints.push(format!(
                    "on {node} run {told:?} by its agent, {stored:?} by the database"
                ));
            }
        }
        for node in NODES {
            complaints.extend(self.of_processes(node, &running(&tasks, node)));
        }
        complaints
    }

    /// The tasks that the agent of a node says it runs.
    async fn told_by_agent(&self, node: &str, id: &str) -> Result<BTreeSet<String>, String> {
        let key = std::fs::read_to_string(self.directory().join("service")).expect("the key was made");
        let key = from_hex(key.trim())
            .map(ServiceKey::from_bytes)
            .expect("it is a key");
        let id: NodeId = id.parse().expect("the database holds ids");
        let token = token::mint_node(&node_key(&key, id), id, name::SCHEDULER, name::AGENT);
        let url = format!("{}/api/v1/tasks", self.agent_url(node));
        let http = self.http();
        let request = http
            .raw()
            .get(url)
            .bearer_auth(token)
            .timeout(Duration::from_secs(5));
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let tasks: Value = answer.json().await.map_err(|error| error.to_string())?;
        let tasks = tasks.as_array().ok_or_else(|| tasks.to_string())?;
        let live = tasks
            .iter()
            .filter(|task| !["stopped", "failed"].iter().any(|end| task["state"] == *end));
        Ok(live
            .map(|task| task["task_id"].as_str().unwrap_or_default().to_owned())
            .collect())
    }

    /// Each running task has one process on its node, and no other task has any.
    fn of_processes(&self, node: &str, stored: &BTreeSet<String>) -> Complaints {
        let mut found: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for pid in self.network().processes(node) {
            if let Some(task) = variable(pid, "TASK_ID") {
                found.entry(task).or_default().push(pid);
            }
        }
        let mut complaints = Complaints::new();
        for (task, pids) in &found {
            if !stored.contains(task) {
                complaints.push(format!(
                    "on {node}, processes {pids:?} of task {task} are left behind"
                ));
            } else if pids.len() > 1 {
                complaints.push(format!(
                    "on {node}, task {task} runs {} times: {pids:?}",
                    pids.len()
                ));
            }
        }
        let dead = stored.iter().filter(|task| !found.contains_key(*task));
        complaints.extend(dead.map(|task| format!("on {node}, task {task} has no process")));
        complaints
    }
}

fn running(tasks: &[store::StoredTask], node: &str) -> BTreeSet<String> {
    let here = tasks.iter().filter(|task| task.node.as_deref() == Some(node));
    here.filter(|task| task.state == "running")
        .map(|task| task.id.clone())
        .collect()
}

fn of_deployments(deployments: &[store::StoredDeployment], tasks: &[store::StoredTask]) -> Complaints {
    let mut complaints = Complaints::new();
    for deployment in deployments {
        let id = &deployment.id;
        if ["pending", "running"].contains(&deployment.status.as_str()) {
            complaints.push(format!("deployment {id} is still {}", deployment.status));
        }
        let live = tasks
            .iter()
            .filter(|task| task.deployment == *id && task.state == "running")
            .count();
        let wanted = if deployment.current {
            deployment.replicas
        } else {
            0
        };
        if live != wanted as usize {
            complaints.push(format!("deployment {id} has {live} tasks, not {wanted}"));
        }
    }
    complaints
}

/// No node has promised more than it has.
fn of_holds(holds: &[store::StoredHold]) -> Complaints {
    let over = holds
        .iter()
        .filter(|hold| hold.held.iter().zip(&hold.has).any(|(held, has)| held > has));
    over.map(|hold| format!("{} has {:?} and gave {:?}", hold.node, hold.has, hold.held))
        .collect()
}

fn of_tasks(tasks: &[store::StoredTask]) -> Complaints {
    let mut complaints = Complaints::new();
    let mut ports = BTreeMap::new();
    for task in tasks.iter().filter(|task| !task.has_ended()) {
        let id = &task.id;
        if task.state != "running" || task.wanted != "run" || !task.routed {
            complaints.push(format!(
                "task {id} is {}, wanted to {}, routed: {}",
                task.state, task.wanted, task.routed
            ));
        }
        if let Some(other) = ports.insert((&task.node, task.port), id) {
            complaints.push(format!("tasks {id} and {other} have the same port"));
        }
    }
    complaints
}
