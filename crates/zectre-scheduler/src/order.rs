//! Orders: what the core decided about a task on a node, on its way to the agent.

use crate::{
    core::{Command, max_runtime_secs},
    error::Error,
    store::{Contexts, OrderContext, Store},
};
use secrecy::ExposeSecret;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use zectre_common::{
    id::{DeploymentId, NodeId, TaskId},
    quantity::DurationMs,
    spec::DeploymentSpec,
    state::{Reason, TaskState},
    time::Time,
    wire::{
        agent::{Action, ActionKind, ArtifactRef, TaskOrder, TaskReport},
        task::Phases,
    },
};
use zectre_service::{key::ServiceKey, ring::KeyRing, seal, signed_url};

/// What is to be done about one task.
#[derive(Debug, Clone)]
pub struct Order {
    /// Where.
    pub node_id: NodeId,
    /// Which.
    pub task_id: TaskId,
    /// Newer than every order before.
    pub generation: u64,
    /// What.
    pub kind: OrderKind,
}

/// The kinds of orders.
#[derive(Debug, Clone)]
pub enum OrderKind {
    /// Run it.
    Start {
        /// Its deployment.
        deployment_id: DeploymentId,
        /// The deployment's spec.
        spec: Arc<DeploymentSpec>,
        /// The port that it was given.
        port: u16,
        /// What else it needs, where it was read already.
        context: Option<Arc<OrderContext>>,
    },
    /// End it.
    Stop {
        /// From SIGTERM to SIGKILL.
        grace: DurationMs,
    },
    /// Drop what is kept of it.
    Forget,
}

impl Order {
    /// The order in a command, if it is one. `spec` finds a deployment's spec.
    pub fn from_command(
        command: Command,
        spec: impl FnOnce(DeploymentId) -> Option<Arc<DeploymentSpec>>,
    ) -> Result<Self, Command> {
        match command {
            Command::Start { node_id, task } => match (spec(task.deployment_id), task.port) {
                (Some(spec), Some(port)) => {
                    let kind = OrderKind::Start {
                        deployment_id: task.deployment_id,
                        spec,
                        port,
                        context: None,
                    };
                    Ok(Self {
                        node_id,
                        task_id: task.id,
                        generation: task.generation,
                        kind,
                    })
                }
                // Its deployment went away in the same batch: nothing to start.
                _ => Err(Command::Start { node_id, task }),
            },
            Command::Stop {
                node_id,
                task_id,
                generation,
                grace,
            } => Ok(Self {
                node_id,
                task_id,
                generation,
                kind: OrderKind::Stop { grace },
            }),
            Command::Forget {
                node_id,
                task_id,
                generation,
            } => Ok(Self {
                node_id,
                task_id,
                generation,
                kind: OrderKind::Forget,
            }),
            other => Err(other),
        }
    }

    /// The deployment of which it starts a task.
    pub fn starts(&self) -> Option<DeploymentId> {
        match self.kind {
            OrderKind::Start { deployment_id, .. } => Some(deployment_id),
            OrderKind::Stop { .. } | OrderKind::Forget => None,
        }
    }

    /// Takes what it needs from `contexts`.
    pub fn complete(&mut self, contexts: &Contexts) {
        if let OrderKind::Start {
            deployment_id,
            context,
            ..
        } = &mut self.kind
        {
            *context = contexts.get(deployment_id).cloned();
        }
    }
}

/// What the variables in one message's orders may take. Agents take eight times as much: written as JSON, a byte can become
/// six. The starts that are over it come with the node's next heartbeats, which show that they are missing.
const VARIABLES_BYTES_MAX: usize = 8 << 20;

/// Turns orders into what goes over the wire.
#[derive(Debug, Clone)]
pub struct Composer {
    /// Names, artifacts, variables.
    pub store: Store,
    /// Signs download URLs.
    pub service_key: ServiceKey,
    /// Opens variables; without one, a deployment with variables can't start.
    pub master_key: Option<KeyRing>,
    /// Where agents fetch artifacts.
    pub registry_url: String,
    /// How long a signed URL holds.
    pub url_ttl: Duration,
    /// The cluster's limit on running times.
    pub max_runtime_secs_cap: u32,
}

/// Orders for the wire, and starts that can't be made, as reports of their failure.
#[derive(Debug, Default)]
pub struct Composed {
    /// To send.
    pub actions: Vec<Action>,
    /// To feed back.
    pub failures: Vec<TaskReport>,
}

impl Composer {
    /// Composes the orders in their order.
    pub async fn compose(&self, orders: Vec<Order>) -> Result<Composed, Error> {
        let incomplete = |order: &Order| match order.kind {
            OrderKind::Start {
                deployment_id,
                context: None,
                ..
            } => Some(deployment_id),
            _ => None,
        };
        let ids: BTreeSet<DeploymentId> = orders.iter().filter_map(incomplete).collect();
        let contexts = if ids.is_empty() {
            Contexts::new()
        } else {
            let ids: Vec<DeploymentId> = ids.into_iter().collect();
            self.store.order_contexts(&ids).await?
        };
        let mut composed = Composed::default();
        let mut left = VARIABLES_BYTES_MAX;
        for Order {
            task_id,
            generation,
            kind,
            ..
        } in orders
        {
            let kind = match kind {
                OrderKind::Stop { grace } => ActionKind::Stop { grace },
                OrderKind::Forget => ActionKind::Forget,
                OrderKind::Start {
                    deployment_id,
                    spec,
                    port,
                    context,
                } => {
                    // Without a row the deployment was just deleted; its tasks are forgotten with it.
                    let Some(context) = context.or_else(|| contexts.get(&deployment_id).cloned()) else {
                        continue;
                    };
                    match self.start(deployment_id, &spec, port, &context) {
                        Ok(order) => {
                            let Some(rest) = left.checked_sub(bytes(&order.env)) else {
                                continue;
                            };
                            left = rest;
                            ActionKind::Start {
                                order: Box::new(order),
                            }
                        }
                        Err((reason, message)) => {
                            composed
                                .failures
                                .push(failure(task_id, generation, reason, message));
                            continue;
                        }
                    }
                }
            };
            composed.actions.push(Action {
                task_id,
                generation,
                kind,
            });
        }
        Ok(composed)
    }

    fn start(
        &self,
        deployment_id: DeploymentId,
        spec: &DeploymentSpec,
        port: u16,
        context: &OrderContext,
    ) -> Result<TaskOrder, (Reason, String)> {
        if context.image.is_none() && context.artifact.is_none() {
            return Err((
                Reason::ArtifactMissing,
                "its artifact is not in the registry: upload it and deploy again".into(),
            ));
        }
        Ok(TaskOrder {
            deployment_id,
            application: context.application.clone(),
            namespace: context.namespace.clone(),
            environment: spec.environment.clone(),
            process_type: spec.process_type,
            artifact: context.artifact.as_ref().map(|artifact| self.artifact(artifact)),
            image: context.image.clone(),
            command: spec.command.clone(),
            args: spec.args.clone(),
            env: self.variables(spec, context)?,
            port,
            container_port: spec.networking.port,
            protocol: spec.networking.protocol,
            health_check: spec.networking.health_check.clone(),
            resources: spec.resources,
            restart: spec.restart,
            max_runtime_secs: max_runtime_secs(spec, self.max_runtime_secs_cap),
            stop_grace_secs: spec.stop_grace_secs,
            volumes: spec.volumes.clone(),
        })
    }

    fn artifact(&self, artifact: &crate::store::StoredArtifact) -> ArtifactRef {
        let expires = (Time::now().plus(self.url_ttl).unix_ms() / 1_000).max(0) as u64;
        // The name is only for people; a path must hold nothing that could lead elsewhere.
        let harmless = |c: char| {
            if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '-'
            }
        };
        let name: String = artifact.name.chars().take(64).map(harmless).collect();
        let path = signed_url::sign(&self.service_key, &artifact.sha256, &name, expires);
        ArtifactRef {
            id: artifact.id,
            kind: artifact.kind,
            sha256: artifact.sha256.clone(),
            size: artifact.size,
            url: format!("{}{path}", self.registry_url.trim_end_matches('/')),
        }
    }

    /// The application's variables, over them the environment's, over them the deployment's own.
    fn variables(
        &self,
        spec: &DeploymentSpec,
        context: &OrderContext,
    ) -> Result<BTreeMap<String, String>, (Reason, String)> {
        let mut env = BTreeMap::new();
        for variable in &context.variables {
            let scope = variable.environment.as_deref();
            let sealed_for = seal::place::variable(context.application_id, scope, &variable.key);
            let unreadable = |why: String| {
                (
                    Reason::Internal,
                    format!("the variable {} can't be read: {why}", variable.key),
                )
            };
            let key = self.master_key.as_ref().ok_or_else(|| {
                unreadable("the scheduler has no master key; set secrets.master_key_file".into())
            })?;
            let value = seal::open(key, &sealed_for, &variable.value)
                .map_err(|error| unreadable(error.to_string()))?;
            env.insert(variable.key.clone(), value.expose_secret().to_owned());
        }
        env.extend(spec.env.clone());
        Ok(env)
    }
}

fn bytes(variables: &BTreeMap<String, String>) -> usize {
    variables.iter().map(|(key, value)| key.len() + value.len()).sum()
}

pub(crate) fn failure(task_id: TaskId, generation: u64, reason: Reason, message: String) -> TaskReport {
    TaskReport {
        task_id,
        generation,
        state: TaskState::Failed,
        healthy: false,
        port: None,
        reason: Some(reason),
        message: Some(message),
        exit_code: None,
        signal: None,
        last_probe: None,
        log_tail: Vec::new(),
        phases: Phases::default(),
        usage: None,
        since: Time::now(),
    }
}
