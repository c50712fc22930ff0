//! One container: made, started, waited for, stopped, removed, and found again.

use crate::{Engine, Error, error::answer};
use bollard::{
    errors::Error as EngineError,
    models::{
        ContainerCreateBody, ContainerInspectResponse, ContainerState as EngineState, HostConfig,
        HostConfigLogConfig, Mount, MountType, PortBinding, RestartPolicy, RestartPolicyNameEnum,
    },
    query_parameters::{
        CreateContainerOptions, InspectContainerOptions, KillContainerOptions, ListContainersOptions,
        RemoveContainerOptions, StartContainerOptions, StatsOptions, WaitContainerOptions,
    },
};
use futures_util::StreamExt;
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};
use zectre_common::id::TaskId;

/// The label that names a container's task.
const LABEL_TASK: &str = "zectre.task";
/// The label that names the agent it belongs to.
const LABEL_OWNER: &str = "zectre.agent";
/// The engine's own copy of the output: enough to bridge an agent's restart, bounded so that it can't fill the
/// disk. The agent ships the output elsewhere.
const ENGINE_LOG: [(&str, &str); 2] = [("max-size", "16m"), ("max-file", "2")];

/// What an engine gives a container's root beyond what servers need: raw sockets (forged packets on the engine's
/// bridge), device files, forged audit records, capabilities on files. Programs that change their user keep theirs.
const CAPABILITIES_DROPPED: [&str; 4] = ["NET_RAW", "MKNOD", "AUDIT_WRITE", "SETFCAP"];

/// A directory of the node inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerVolume {
    /// Absolute path on the node, already checked.
    pub host_path: String,
    /// Absolute path in the container.
    pub container_path: String,
}

/// What to run.
#[derive(Clone)]
pub struct ContainerSpec {
    /// Names the container and labels it.
    pub task_id: TaskId,
    /// Present on the engine; see [`Engine::pull_if_missing`].
    pub image: String,
    /// Replaces the image's entry point.
    pub command: Option<Vec<String>>,
    /// Arguments of the entry point; empty keeps the image's.
    pub args: Vec<String>,
    /// The whole environment over the image's own.
    pub env: BTreeMap<String, String>,
    /// The address of this node that the port is published on.
    pub host_address: String,
    /// The port on the node and the port in the container; `None` publishes nothing.
    pub ports: Option<(u16, u16)>,
    /// Bytes of memory, swap included.
    pub memory_bytes: u64,
    /// Thousandths of a core.
    pub cpu_millis: u32,
    /// The most processes and threads.
    pub pids_max: u32,
    /// Directories of the node.
    pub volumes: Vec<ContainerVolume>,
    /// More labels, for people.
    pub labels: BTreeMap<String, String>,
}

/// A container that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The engine's id of it.
    pub container_id: String,
    /// The published port on the node.
    pub host_port: Option<u16>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEnd {
    /// 128 + signal when a signal ended it.
    pub exit_code: i32,
    /// It needed more memory than it may have. Podman doesn't tell.
    pub oom_killed: bool,
}

/// A container of this agent, found by its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its task.
    pub task_id: TaskId,
    /// The engine's id of it.
    pub container_id: String,
    /// How it is.
    pub state: ContainerState,
}

/// How far a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, and not started: whoever made it died before it could, or is about to.
    Created,
    /// It has not ended.
    Running,
    /// It has ended.
    Ended,
}

impl ContainerState {
    /// Engines have more words; those that are missing here are said of what has ended or is on its way out.
    fn from_word(word: &str) -> Self {
        match word {
            "created" | "configured" | "initialized" => Self::Created,
            "running" | "paused" | "restarting" => Self::Running,
            _ => Self::Ended,
        }
    }
}

/// What a container has used so far, and what it holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since its start.
    pub cpu: Duration,
    /// Bytes of memory, without files that are only cached.
    pub memory_bytes: u64,
}

impl Engine {
    /// Makes and starts a container. A left-over of the same task is removed first, so a repeated start can't
    /// fail on its name. Nothing is left behind when it fails.
    ///
    /// # Errors
    /// [`Error::ImageNotFound`], [`Error::PortTaken`], [`Error::StartFailed`], or the engine's failure.
    pub async fn start(&self, spec: &ContainerSpec) -> Result<Started, Error> {
        let name = container_name(spec.task_id);
        match self.remove(&name).await {
            Ok(()) | Err(Error::Gone(_)) => {}
            Err(error) => return Err(error),
        }
        let options = CreateContainerOptions {
            name: Some(name),
            ..CreateContainerOptions::default()
        };
        let created = self.docker.create_container(Some(options), self.body(spec)).await;
        let container_id = created.map_err(|error| create_error(&spec.image, error))?.id;
        let started = self
            .docker
            .start_container(&container_id, None::<StartContainerOptions>)
            .await;
        if let Err(error) = started {
            // The start's own failure is the one to tell; a container that stays is removed by the next start.
            let _ = self.remove(&container_id).await;
            return Err(Error::start(spec.ports.map(|(host, _)| host), error));
        }
        let host_port = spec.ports.map(|(host, _)| host);
        Ok(Started {
            container_id,
            host_port,
        })
    }

    fn body(&self, spec: &ContainerSpec) -> ContainerCreateBody {
        let port_key = spec.ports.map(|(_, inside)| format!("{inside}/tcp"));
        let bindings = spec.ports.map(|(host, inside)| {
            let binding = PortBinding {
                host_ip: Some(spec.host_address.clone()),
                host_port: Some(host.to_string()),
            };
            HashMap::from([(format!("{inside}/tcp"), Some(vec![binding]))])
        });
        let mut labels: HashMap<String, String> = spec.labels.clone().into_iter().collect();
        labels.insert(LABEL_TASK.into(), spec.task_id.to_string());
        labels.insert(LABEL_OWNER.into(), self.owner.clone());
        // As mounts, not as `binds`: for those the engine makes a directory of its own where it doesn't see ours.
        let mounts = spec.volumes.iter().map(|volume| Mount {
            target: Some(volume.container_path.clone()),
            source: Some(volume.host_path.clone()),
            typ: Some(MountType::BIND),
            ..Mount::default()
        });
        let host = HostConfig {
            mounts: Some(mounts.collect()),
            port_bindings: bindings,
            memory: Some(i64::try_from(spec.memory_bytes).unwrap_or(i64::MAX)),
            memory_swap: Some(i64::try_from(spec.memory_bytes).unwrap_or(i64::MAX)),
            nano_cpus: Some(i64::from(spec.cpu_millis) * 1_000_000),
            pids_limit: Some(i64::from(spec.pids_max)),
            security_opt: Some(vec!["no-new-privileges:true".into()]),
            cap_drop: Some(CAPABILITIES_DROPPED.map(Into::into).to_vec()),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".into()),
                config: Some(
                    ENGINE_LOG
                        .iter()
                        .map(|(key, value)| ((*key).into(), (*value).into()))
                        .collect(),
                ),
            }),
            ..HostConfig::default()
        };
        ContainerCreateBody {
            image: Some(spec.image.clone()),
            entrypoint: spec.command.clone(),
            cmd: (!spec.args.is_empty()).then(|| spec.args.clone()),
            env: Some(
                spec.env
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect(),
            ),
            exposed_ports: port_key.map(|key| vec![key]),
            labels: Some(labels),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        }
    }

    /// Waits until the container has ended; at once when it has.
    ///
    /// # Errors
    /// [`Error::Gone`] when it was removed, [`Error::NeverStarted`], else the engine's failure.
    pub async fn wait(&self, container: &str) -> Result<ContainerEnd, Error> {
        let options = WaitContainerOptions {
            condition: "not-running".into(),
        };
        let answered = self.docker.wait_container(container, Some(options)).next().await;
        let code = match answered {
            Some(Ok(response)) => Some(response.status_code),
            Some(Err(EngineError::DockerContainerWaitError { code, .. })) => Some(code),
            Some(Err(error)) => return Err(Error::about(container, "wait for a container", error)),
            // The engine closed the stream without a word; its record below knows.
            None => None,
        };
        let state = self.inspect(container).await?.state.unwrap_or_default();
        // One that was never started isn't running either, and the engine says 0 for it.
        if state_of(&state) == ContainerState::Created {
            return Err(Error::NeverStarted(container.into()));
        }
        let exit_code = code.or(state.exit_code).unwrap_or(-1);
        Ok(ContainerEnd {
            exit_code: i32::try_from(exit_code).unwrap_or(-1),
            oom_killed: state.oom_killed.unwrap_or(false),
        })
    }

    /// Whether the kernel has killed some of a container for want of memory, and the container runs on.
    ///
    /// # Errors
    /// [`Error::Gone`], or the engine's failure.
    pub async fn survives_oom(&self, container: &str) -> Result<bool, Error> {
        let state = self.inspect(container).await?.state.unwrap_or_default();
        Ok(state.oom_killed.unwrap_or(false) && state_of(&state) == ContainerState::Running)
    }

    /// What the container uses; `None` when the engine doesn't tell.
    ///
    /// # Errors
    /// [`Error::Gone`], or the engine's failure.
    pub async fn usage(&self, container: &str) -> Result<Option<Usage>, Error> {
        let options = StatsOptions {
            stream: false,
            one_shot: true,
        };
        let mut stats = std::pin::pin!(self.docker.stats(container, Some(options)));
        let told = match stats.next().await {
            Some(told) => told.map_err(|error| Error::about(container, "read a container's usage", error))?,
            None => return Ok(None),
        };
        let cpu_ns = told
            .cpu_stats
            .and_then(|cpu| cpu.cpu_usage)
            .and_then(|usage| usage.total_usage);
        let memory = told.memory_stats.unwrap_or_default();
        let (Some(cpu_ns), Some(all)) = (cpu_ns, memory.usage) else {
            return Ok(None);
        };
        let cached = memory.stats.and_then(|stats| {
            ["total_inactive_file", "inactive_file"]
                .iter()
                .find_map(|key| stats.get(*key).copied())
        });
        Ok(Some(Usage {
            cpu: Duration::from_nanos(cpu_ns),
            memory_bytes: all.saturating_sub(cached.unwrap_or(0)),
        }))
    }

    /// How far the container has come. A start that is under way is waited for by the engine.
    ///
    /// # Errors
    /// [`Error::Gone`], or the engine's failure.
    pub async fn state(&self, container: &str) -> Result<ContainerState, Error> {
        let inspected = self.inspect(container).await?;
        Ok(state_of(&inspected.state.unwrap_or_default()))
    }

    async fn inspect(&self, container: &str) -> Result<ContainerInspectResponse, Error> {
        let inspected = self
            .docker
            .inspect_container(container, None::<InspectContainerOptions>)
            .await;
        inspected.map_err(|error| Error::about(container, "inspect a container", error))
    }

    /// Asks the container to end (SIGTERM), and after `grace` makes it.
    ///
    /// # Errors
    /// [`Error::Gone`], or the engine's failure.
    pub async fn stop(&self, container: &str, grace: Duration) -> Result<ContainerEnd, Error> {
        self.signal(container, "SIGTERM").await?;
        if let Ok(ended) = tokio::time::timeout(grace, self.wait(container)).await {
            return ended;
        }
        self.signal(container, "SIGKILL").await?;
        self.wait(container).await
    }

    /// Ends the container at once.
    ///
    /// # Errors
    /// [`Error::Gone`], or the engine's failure.
    pub async fn kill(&self, container: &str) -> Result<(), Error> {
        self.signal(container, "SIGKILL").await
    }

    /// Sends a signal; one to a container that has ended already does nothing.
    ///
    /// # Errors
    /// [`Error::Gone`], or the engine's failure.
    pub async fn signal(&self, container: &str, signal: &str) -> Result<(), Error> {
        let options = KillContainerOptions {
            signal: signal.into(),
        };
        match self.docker.kill_container(container, Some(options)).await {
            // 409: it isn't running, which is what a signal wants in the end. Podman says 500 for it.
            Err(error) if matches!(answer(&error), Some((409, _))) => Ok(()),
            Err(error) if answer(&error).is_some_and(|(_, words)| words.contains("not running")) => Ok(()),
            other => other.map_err(|error| Error::about(container, "signal a container", error)),
        }
    }

    /// Removes the container, running or not, and its anonymous volumes.
    ///
    /// # Errors
    /// [`Error::Gone`], or the engine's failure.
    pub async fn remove(&self, container: &str) -> Result<(), Error> {
        let options = RemoveContainerOptions {
            v: true,
            force: true,
            link: false,
        };
        match self.docker.remove_container(container, Some(options)).await {
            // 409: a removal is under way.
            Err(error) if matches!(answer(&error), Some((409, _))) => Ok(()),
            other => other.map_err(|error| Error::about(container, "remove a container", error)),
        }
    }

    /// Every container of this agent, ended ones too.
    ///
    /// # Errors
    /// The engine's failure.
    pub async fn list_ours(&self) -> Result<Vec<Found>, Error> {
        let labels = vec![LABEL_TASK.to_owned(), format!("{LABEL_OWNER}={}", self.owner)];
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([("label".to_owned(), labels)])),
            ..ListContainersOptions::default()
        };
        let listed = self.docker.list_containers(Some(options)).await;
        let listed = listed.map_err(|source| Error::Engine {
            doing: "list containers",
            source,
        })?;
        let found = listed.into_iter().filter_map(|summary| {
            let task_id = summary.labels?.get(LABEL_TASK)?.parse().ok()?;
            Some(Found {
                task_id,
                container_id: summary.id?,
                state: ContainerState::from_word(summary.state?.as_ref()),
            })
        });
        Ok(found.collect())
    }
}

fn state_of(state: &EngineState) -> ContainerState {
    let word = state.status.as_ref().map_or("", AsRef::as_ref);
    ContainerState::from_word(word)
}

/// What a refused creation means: the engine looks the image up first.
fn create_error(image: &str, error: EngineError) -> Error {
    match answer(&error) {
        Some((404, _)) => Error::pull(image, error),
        Some((_, message)) => Error::StartFailed(message.trim().into()),
        None => Error::Engine {
            doing: "create a container",
            source: error,
        },
    }
}

/// The name of a task's container.
fn container_name(task: TaskId) -> String {
    format!("zectre-{task}")
}
