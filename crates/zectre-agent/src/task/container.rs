//! A task as a container.

use super::{
    Home,
    env::environment,
    native::PIDS_MAX,
    volume,
    workload::{Handle, Workload},
};
use crate::{core::exit::Exit, error::StartError, host::Host, log::Spool};
use futures_util::{FutureExt, StreamExt};
use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;
use zectre_common::{id::TaskId, spec::RestartPolicy, state::Reason, wire::agent::TaskOrder};
use zectre_container::{
    ContainerSpec, ContainerVolume, Engine, Error as EngineError, OutputChunk, OutputStream,
};

/// The port inside a container when the deployment names none.
const PORT_DEFAULT: u16 = 8_080;
/// How long a pull may take.
const PULL_TIMEOUT: Duration = Duration::from_secs(600);
/// How long the last output of an ended container may take to arrive.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before the engine is asked again after it failed.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A running container.
#[derive(Debug, Clone)]
pub(super) struct Container {
    engine: Engine,
    id: String,
    oom_killed: Arc<AtomicBool>,
    output_done: watch::Receiver<bool>,
}

/// Brings the image to the node, having checked that the task may run here at all.
pub(super) async fn fetch(host: &Host, order: &TaskOrder) -> Result<Prepared, StartError> {
    let engine = host.engine.clone().ok_or_else(|| {
        StartError::new(
            Reason::EngineFailed,
            "this node runs no containers: set agent.container_enabled",
        )
    })?;
    let volumes = volume::check(
        &order.volumes,
        &host.config.allowed_volume_paths,
        order.process_type,
    )?;
    let image = order.image.clone().ok_or_else(|| {
        StartError::new(
            Reason::ImageNotFound,
            "the deployment names no image, which a container needs",
        )
    })?;
    engine.pull_if_missing(&image, PULL_TIMEOUT).await?;
    Ok(Prepared {
        engine,
        image,
        volumes,
    })
}

/// What a container is started from.
pub(super) struct Prepared {
    engine: Engine,
    image: String,
    volumes: Vec<ContainerVolume>,
}

/// Starts the container.
pub(super) async fn start(
    host: &Host,
    task: TaskId,
    order: &TaskOrder,
    home: &Home,
    prepared: Prepared,
) -> Result<Workload, StartError> {
    let Prepared {
        engine,
        image,
        volumes,
    } = prepared;
    let inside = order.container_port.unwrap_or(PORT_DEFAULT);
    let labels = BTreeMap::from([
        ("zectre.app".to_owned(), order.application.clone()),
        ("zectre.namespace".to_owned(), order.namespace.clone()),
        ("zectre.deployment".to_owned(), order.deployment_id.to_string()),
    ]);
    let spec = ContainerSpec {
        task_id: task,
        image,
        command: order.command.clone(),
        args: order.args.clone(),
        env: container_environment(task, order, inside),
        host_address: host.publish_address(),
        ports: (order.restart != RestartPolicy::Never).then_some((order.port, inside)),
        memory_bytes: order.resources.memory.0,
        cpu_millis: order.resources.cpu.0,
        pids_max: PIDS_MAX,
        volumes,
        labels,
    };
    let started = engine.start(&spec).await?;
    Ok(watched(host, &engine, home, started.container_id))
}

/// The image has a PATH of its own.
fn container_environment(task: TaskId, order: &TaskOrder, port: u16) -> BTreeMap<String, String> {
    let mut env = environment(task, order, port);
    if !order.env.contains_key("PATH") {
        env.remove("PATH");
    }
    env
}

/// Takes up a container that an earlier agent started.
pub(super) fn adopt(host: &Host, engine: &Engine, home: &Home, container_id: String) -> Workload {
    watched(host, engine, home, container_id)
}

fn watched(host: &Host, engine: &Engine, home: &Home, id: String) -> Workload {
    let (done, output_done) = watch::channel(false);
    let container = Container {
        engine: engine.clone(),
        id,
        oom_killed: Arc::default(),
        output_done,
    };
    let (copied, home) = (container.clone(), home.clone());
    host.spawn("container output", async move {
        if let Err(error) = copied.copy_output(&home).await {
            tracing::error!(container = copied.id, %error, "the output of a container is lost");
        }
        done.send_replace(true);
    });
    let exit = container.clone().exited().boxed();
    Workload {
        handle: Handle::Container(container),
        exit,
    }
}

impl Container {
    /// An engine that restarts is waited for: its containers are still there, or are gone when it is back.
    async fn exited(self) -> Exit {
        let mut pause = PAUSE_MIN;
        let exit = loop {
            match self.engine.wait(&self.id).await {
                Ok(end) => {
                    self.oom_killed.store(end.oom_killed, Ordering::Release);
                    break exit_of(end.exit_code);
                }
                Err(EngineError::Gone(_)) => break Exit::default(),
                Err(error) => tracing::warn!(container = self.id, %error, "waiting for the engine"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        };
        let mut done = self.output_done.clone();
        let _ = tokio::time::timeout(OUTPUT_TIMEOUT, done.wait_for(|done| *done)).await;
        exit
    }

    /// Copies what the engine keeps of the output into the task's files, where it goes the way of all output.
    async fn copy_output(&self, home: &Home) -> io::Result<()> {
        let mut files = Spool::raw_files(home.dir()).map(|path| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(path)
        });
        let mut pause = PAUSE_MIN;
        loop {
            let mut output = std::pin::pin!(self.engine.output(&self.id, home.output_seen()?));
            let mut failed = false;
            while let Some(chunk) = output.next().await {
                match chunk {
                    Ok(chunk) => copy(&chunk, &mut files, home)?,
                    Err(EngineError::Gone(_)) => return Ok(()),
                    Err(error) => {
                        tracing::debug!(container = self.id, %error, "reading the output again");
                        failed = true;
                        break;
                    }
                }
            }
            if !failed {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    pub(super) async fn ask_to_end(&self) {
        self.signal("SIGTERM").await;
    }

    pub(super) async fn kill(&self) {
        self.signal("SIGKILL").await;
    }

    async fn signal(&self, signal: &str) {
        match self.engine.signal(&self.id, signal).await {
            Ok(()) | Err(EngineError::Gone(_)) => {}
            Err(error) => tracing::warn!(container = self.id, %error, "the signal was not delivered"),
        }
    }

    pub(super) fn oom_killed(&self) -> bool {
        self.oom_killed.load(Ordering::Acquire)
    }

    pub(super) async fn clear(&self) {
        match self.engine.remove(&self.id).await {
            Ok(()) | Err(EngineError::Gone(_)) => {}
            Err(error) => {
                tracing::warn!(container = self.id, %error, "a container stays until the next start");
            }
        }
    }
}

fn copy(chunk: &OutputChunk, files: &mut [io::Result<std::fs::File>; 2], home: &Home) -> io::Result<()> {
    let index = usize::from(chunk.stream == OutputStream::Stderr);
    match &mut files[index] {
        Ok(file) => file.write_all(&chunk.bytes)?,
        Err(error) => return Err(io::Error::new(error.kind(), error.to_string())),
    }
    home.keep_output_seen(&chunk.at)
}

/// The engine reports a signal as a code above 128.
fn exit_of(code: i32) -> Exit {
    match code {
        129..=192 => Exit {
            code: None,
            signal: Some(code - 128),
        },
        code => Exit {
            code: Some(code),
            signal: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_told_from_a_code() {
        assert_eq!(
            exit_of(137),
            Exit {
                code: None,
                signal: Some(9)
            }
        );
        assert_eq!(
            exit_of(3),
            Exit {
                code: Some(3),
                signal: None
            }
        );
        assert_eq!(
            exit_of(255),
            Exit {
                code: Some(255),
                signal: None
            }
        );
    }
}
