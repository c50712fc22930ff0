//! A task as a container.

use super::{
    Home,
    env::environment,
    life::KILL_TIMEOUT,
    native::PIDS_MAX,
    output::Copy,
    usage::Reading,
    volume,
    workload::{Handle, Workload},
};
use crate::{
    core::{exit::Exit, order::Known},
    error::StartError,
    host::Host,
    images::HeldImage,
};
use futures_util::{FutureExt, StreamExt};
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;
use zectre_common::{id::TaskId, spec::RestartPolicy, state::Reason, wire::agent::TaskOrder};
use zectre_container::{
    ContainerSpec, ContainerState, ContainerVolume, Engine, Error as EngineError, Found, Progress,
};
use zectre_service::tasks::Shutdown;

/// The port inside a container when the deployment names none.
const PORT_DEFAULT: u16 = 8_080;
/// How long a pull may take.
const PULL_TIMEOUT: Duration = Duration::from_secs(600);
/// Attempts, when a registry or the way to it fails.
const PULL_ATTEMPTS_MAX: u32 = 4;
/// The pause before the second attempt; doubled before each more.
const PULL_PAUSE: Duration = Duration::from_millis(500);
/// How often it is told how far a pull is.
const TELL_INTERVAL: Duration = Duration::from_secs(5);
/// How long the last output of an ended container may take to arrive.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a start may take to reach the engine whose order was given before its agent was killed.
const START_TIMEOUT: Duration = Duration::from_secs(1);
/// The first pause before it is asked whether it has.
const START_PAUSE: Duration = Duration::from_millis(20);
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
    /// The kernel killed some of it for want of memory, and it lived on: the engine says so until its end.
    survived_oom: Arc<AtomicBool>,
    output_done: watch::Receiver<bool>,
}

/// Brings the image to the node, having checked that the task may run here at all. `tell` hears how far it is.
pub(super) async fn fetch(
    host: &Host,
    order: &TaskOrder,
    mut tell: impl FnMut(String),
) -> Result<Prepared, StartError> {
    let engine = host.engine.current().ok_or_else(|| {
        let why = if host.engine.is_enabled() {
            "the container engine of this node does not answer: start it, or correct agent.container_socket"
        } else {
            "this node runs no containers: set agent.container_enabled"
        };
        StartError::new(Reason::EngineFailed, why)
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
    // Held before it is there: what is being pulled must not be removed.
    let held = host.images.hold(&image);
    {
        let _turn = host.images.turn(&image).await;
        bring(host, &engine, &image, &mut tell).await?;
    }
    Ok(Prepared {
        engine,
        held,
        volumes,
    })
}

/// Pulls the image unless it is there: again when a registry falters, and once more when room was made for it.
async fn bring(
    host: &Host,
    engine: &Engine,
    image: &str,
    tell: &mut impl FnMut(String),
) -> Result<(), StartError> {
    let deadline = Instant::now() + PULL_TIMEOUT;
    let (mut attempts, mut pause, mut made_room) = (1, PULL_PAUSE, false);
    let mut progress = told_now_and_then(image, TELL_INTERVAL, tell);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let login = host.engine.login(image);
        match engine.pull_if_missing(image, login, left, &mut progress).await {
            Ok(false) => return Ok(()),
            Ok(true) => break,
            Err(EngineError::DiskFull { .. }) if !made_room => {
                made_room = true;
                host.cache.collector().make_room().await;
            }
            Err(error) if error.is_passing() && attempts < PULL_ATTEMPTS_MAX => {
                tracing::info!(image, %error, "pulling again");
                tokio::time::sleep(pause.min(left)).await;
                (attempts, pause) = (attempts + 1, pause * 2);
            }
            Err(error) => return Err(error.into()),
        }
    }
    // It is ours to remove from now on, even if the engine doesn't say how large it is.
    let found = engine.image(image).await;
    let bytes = found.ok().flatten().map_or(0, |found| found.bytes);
    if let Err(error) = host.images.pulled(image, bytes) {
        tracing::warn!(%error, "the list of images could not be kept");
    }
    host.cache.collector().look();
    Ok(())
}

/// Tells how far a pull is, if it takes that long at all.
fn told_now_and_then(image: &str, interval: Duration, tell: &mut impl FnMut(String)) -> impl FnMut(Progress) {
    let mut told_at = Instant::now();
    move |progress| {
        if told_at.elapsed() >= interval {
            told_at = Instant::now();
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            let (current, total) = (mib(progress.current_bytes), mib(progress.total_bytes));
            tell(format!(
                "pulling the image {image}: {current} of {total} MiB so far"
            ));
        }
    }
}

/// What a container is started from.
pub(super) struct Prepared {
    engine: Engine,
    held: HeldImage,
    volumes: Vec<ContainerVolume>,
}

/// Starts the container.
pub(super) async fn start(
    host: &Host,
    task: TaskId,
    order: &TaskOrder,
    home: &Home,
    prepared: Prepared,
) -> Result<(Workload, HeldImage), StartError> {
    let Prepared {
        engine,
        held,
        volumes,
    } = prepared;
    let place = host.places.show(task, &volumes)?;
    let inside = order.container_port.unwrap_or(PORT_DEFAULT);
    let labels = BTreeMap::from([
        ("zectre.app".to_owned(), order.application.clone()),
        ("zectre.namespace".to_owned(), order.namespace.clone()),
        ("zectre.deployment".to_owned(), order.deployment_id.to_string()),
    ]);
    let spec = ContainerSpec {
        task_id: task,
        image: held.name().into(),
        command: order.command.clone(),
        args: order.args.clone(),
        env: container_environment(task, order, inside),
        host_address: host.publish_address(),
        ports: (order.restart != RestartPolicy::Never).then_some((order.port, inside)),
        memory_bytes: order.resources.memory.0,
        cpu_millis: order.resources.cpu.0,
        pids_max: PIDS_MAX,
        volumes: place
            .as_ref()
            .map(|place| place.volumes().to_vec())
            .unwrap_or_default(),
        labels,
    };
    let started = engine.start(&spec).await?;
    // It has mounts of its own now.
    drop(place);
    let workload = watched(host, &engine, home, started.container_id);
    Ok((workload, held))
}

/// The image has a PATH of its own.
fn container_environment(task: TaskId, order: &TaskOrder, port: u16) -> BTreeMap<String, String> {
    let mut env = environment(task, order, port);
    if !order.env.contains_key("PATH") {
        env.remove("PATH");
    }
    env
}

/// What has become of a container by now. One that was made and not started may be about to: the engine is asked
/// again for a moment, since an order that was on its way to it when its agent was killed is still carried out.
pub(super) async fn settled(engine: &Engine, mut found: Found) -> Found {
    let began = Instant::now();
    let mut pause = START_PAUSE;
    while found.state == ContainerState::Created && began.elapsed() < START_TIMEOUT {
        tokio::time::sleep(pause).await;
        pause *= 2;
        match engine.state(&found.container_id).await {
            Ok(state) => found.state = state,
            Err(error) => {
                tracing::warn!(container = found.container_id, %error, "asking what became of it");
                break;
            }
        }
    }
    found
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
        survived_oom: Arc::default(),
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
                    let explains = end.oom_killed && !self.survived_oom.load(Ordering::Acquire);
                    self.oom_killed.store(explains, Ordering::Release);
                    break exit_of(end.exit_code);
                }
                Err(EngineError::Gone(_) | EngineError::NeverStarted(_)) => break Exit::default(),
                Err(error) => tracing::warn!(container = self.id, %error, "waiting for the engine"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        };
        let mut done = self.output_done.clone();
        let _ = tokio::time::timeout(OUTPUT_TIMEOUT, done.wait_for(|done| *done)).await;
        exit
    }

    /// Copies what the engine keeps of the output into the task's files, where it goes the way of all output. What the engine
    /// or the disk fails at is tried again, as long as the task has a directory.
    async fn copy_output(&self, home: &Home) -> io::Result<()> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.copy_on(home).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if home.dir().is_dir() => {
                    tracing::warn!(container = self.id, %error, "the output of a container can't be kept for now");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Goes on where the files end; whether all of it was copied.
    async fn copy_on(&self, home: &Home) -> io::Result<bool> {
        let mut copy = Copy::open(home)?;
        let mut output = std::pin::pin!(self.engine.output(&self.id, copy.since()));
        while let Some(chunk) = output.next().await {
            match chunk {
                Ok(chunk) => copy.take(&chunk)?,
                Err(EngineError::Gone(_)) => return Ok(true),
                Err(error) => {
                    tracing::debug!(container = self.id, %error, "reading the output again");
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    pub(super) async fn usage(&self) -> Option<Reading> {
        if self.engine.survives_oom(&self.id).await.unwrap_or(false) {
            self.survived_oom.store(true, Ordering::Release);
        }
        match self.engine.usage(&self.id).await {
            Ok(usage) => usage.map(|usage| Reading {
                cpu: usage.cpu,
                memory_bytes: usage.memory_bytes,
            }),
            Err(error) => {
                tracing::debug!(container = self.id, %error, "the engine doesn't tell what it uses");
                None
            }
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

/// Ends the container of a task that nobody watches any more. Where the engine doesn't let it go in time, what it has of ours
/// and nobody wants goes when it comes again.
pub(super) async fn kill_remains(host: &Host, task: TaskId) {
    let Some(engine) = host.engine.current() else {
        return;
    };
    let gone = async {
        let mut pause = PAUSE_MIN;
        while let Err(error) = remove_of(&engine, task).await {
            tracing::warn!(%task, %error, "asking the engine again to remove a container");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    };
    if tokio::time::timeout(KILL_TIMEOUT, gone).await.is_err() {
        tracing::error!(%task, "a container that nobody watches is not gone");
    }
}

async fn remove_of(engine: &Engine, task: TaskId) -> Result<(), EngineError> {
    for found in engine.list_ours().await? {
        if found.task_id == task {
            match engine.remove(&found.container_id).await {
                Ok(()) | Err(EngineError::Gone(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Asks the engine again and again whether it is there, and removes what nobody wants of ours whenever it has come:
/// containers that ended while it was away, or whose task was given up.
pub(crate) async fn watch_engine(host: &Host, stop: Shutdown) {
    let sweep = async {
        let mut changes = host.engine.changes();
        // What was there at the start has been taken up already.
        changes.mark_unchanged();
        while changes.changed().await.is_ok() {
            let engine = changes.borrow_and_update().clone();
            if let Some(engine) = engine
                && let Err(error) = remove_strays(host, &engine).await
            {
                tracing::warn!(%error, "containers that nobody wants could not be removed");
            }
        }
    };
    tokio::join!(host.engine.watch(stop.clone()), stop.or_requested(sweep));
}

async fn remove_strays(host: &Host, engine: &Engine) -> Result<(), EngineError> {
    for found in engine.list_ours().await? {
        let is_wanted = matches!(host.board.known(found.task_id), Known::Live(_));
        if !is_wanted && !host.board.is_left_alone(found.task_id) {
            tracing::warn!(task = %found.task_id, "removing a container that belongs to no task");
            engine.remove(&found.container_id).await?;
        }
    }
    Ok(())
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
    fn a_long_pull_tells_how_far_it_is() {
        let far = Progress {
            current_bytes: (7 << 20) + 1,
            total_bytes: 30 << 20,
        };
        for (interval, times) in [(Duration::ZERO, 2), (Duration::from_secs(3_600), 0)] {
            let mut said = Vec::new();
            let mut tell = |sentence| said.push(sentence);
            let mut progress = told_now_and_then("shop:1", interval, &mut tell);
            progress(far);
            progress(far);
            drop(progress);
            assert_eq!(said, vec!["pulling the image shop:1: 8 of 30 MiB so far"; times]);
        }
    }

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
