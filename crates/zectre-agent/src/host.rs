//! What every task on this node shares.

use crate::{
    TASKS_DIR,
    artifact::Cache,
    background::Background,
    cgroup::Cgroups,
    collect::Collector,
    enforcement,
    engine::EngineWatch,
    error::{Error, StartError},
    images::Images,
    link::Schedulers,
    log::{Bounds, Follower, Shipping, Source, Watcher},
    machine, port,
    remove::Remover,
    shim::Walls,
    task::{Board, Home, Places, Pool, Series, Spares},
    users::Users,
};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use zectre_common::{config::AgentConfig, config::Config, id::TaskId, wire::node::Enforcement};
use zectre_service::{call::Caller, key::to_hex, metrics::Registry, tasks::Tasks};

/// The supervisor of native tasks, where the configuration names none: beside the running program.
const SHIM_NAME: &str = "zectre-shim";

/// What every task on this node shares.
pub(crate) struct Host {
    pub(crate) config: AgentConfig,
    pub(crate) tasks_dir: PathBuf,
    pub(crate) address: String,
    pub(crate) enforcement: Enforcement,
    /// What native tasks are held in by.
    pub(crate) walls: Walls,
    pub(crate) cgroups: Cgroups,
    pub(crate) users: Option<Users>,
    pub(crate) cache: Cache,
    pub(crate) pool: Pool,
    pub(crate) spares: Arc<Spares>,
    pub(crate) engine: EngineWatch,
    pub(crate) images: Images,
    pub(crate) board: Board,
    pub(crate) series: Series,
    pub(crate) watcher: Arc<Watcher>,
    pub(crate) shipping: Shipping,
    pub(crate) places: Places,
    pub(crate) remover: Remover,
    background: Background,
    start_seconds: Histogram,
}

impl Host {
    /// Takes stock of the machine and of what is in the data directory.
    pub(crate) async fn new(
        config: &Config,
        caller: &Caller,
        shipping: Shipping,
        collector: Collector,
        tasks: Tasks,
        metrics: &Registry,
    ) -> Result<Self, Error> {
        let agent = &config.agent;
        let in_dir = |path: PathBuf| move |source| Error::DataDir { path, source };
        let data_dir = agent
            .data_dir
            .canonicalize()
            .map_err(in_dir(agent.data_dir.clone()))?;
        let tasks_dir = data_dir.join(TASKS_DIR);
        make_dir(&tasks_dir).map_err(in_dir(tasks_dir.clone()))?;
        let spares_dir = data_dir.join("spares");
        let spares = Spares::open(spares_dir.clone()).map_err(in_dir(spares_dir))?;
        let artifacts = data_dir.join("artifacts");
        let background = Background::new(tasks);
        let cache = Cache::open(&artifacts, collector, caller.raw().clone(), background.clone())
            .map_err(in_dir(artifacts.clone()))?;
        let users_file = data_dir.join("users.json");
        let users = Users::open(&users_file, agent.task_uid_min).map_err(in_dir(users_file))?;
        let scope = scope(&data_dir);
        let (cgroups, mut enforcement) = Cgroups::detect(&scope);
        let shim = shim(agent)?;
        let walls = enforcement::find_out(&shim, &data_dir, users.as_ref(), &mut enforcement).await?;
        if agent.container_enabled {
            enforcement::hold_containers(&mut enforcement);
        }
        if let Some(gap) = port::overlap(agent.port_min..=agent.port_max) {
            tracing::warn!("{gap}");
            enforcement.gaps.push(gap);
        }
        let images_file = data_dir.join("images.json");
        let images = Images::open(&images_file).map_err(in_dir(images_file))?;
        let engine = EngineWatch::new(agent, &scope)
            .await
            .map_err(|source| Error::Io {
                doing: "reading a password of agent.registries",
                source,
            })?;
        let watcher = Watcher::new().map_err(|source| Error::Io {
            doing: "watching files",
            source,
        })?;
        let start_seconds = Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        Ok(Self {
            tasks_dir,
            address: address(config)?,
            enforcement,
            pool: Pool::new(shim, cgroups.clone(), walls.clone()),
            spares: Arc::new(spares),
            walls,
            cgroups,
            users,
            cache,
            engine,
            images,
            board: Board::new(metrics),
            series: Series::new(metrics),
            watcher: Arc::new(watcher),
            shipping,
            background,
            places: Places::new(&scope),
            remover: Remover::new(),
            start_seconds: metrics.register(
                "agent_task_start_seconds",
                "From the spawned task to the ready one",
                start_seconds,
            ),
            config: agent.clone(),
        })
    }

    /// The user that an application's native tasks run as.
    pub(crate) fn uid(&self, namespace: &str, application: &str) -> Result<Option<u32>, StartError> {
        let uid = self
            .users
            .as_ref()
            .map(|users| users.uid(namespace, application))
            .transpose();
        uid.map_err(|error| StartError::internal("to give the application a user", &error))
    }

    /// Where containers' ports are published: only to this machine when only it can reach the node.
    pub(crate) fn publish_address(&self) -> String {
        let is_local = self
            .address
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        if is_local {
            "127.0.0.1".into()
        } else {
            "0.0.0.0".into()
        }
    }

    /// Follows a task's output from now on.
    pub(crate) fn follow(&self, task: TaskId, home: &Home) -> io::Result<Follower> {
        let (follower, work) = Follower::open(self.output_of(task, home), self.shipping.clone())?;
        self.spawn("task output", work);
        Ok(follower)
    }

    /// Follows the output of a task that runs already, now or as soon as that is possible.
    pub(crate) fn follow_on(&self, task: TaskId, home: &Home) -> Follower {
        let (follower, work) = Follower::resume(self.output_of(task, home), self.shipping.clone());
        self.spawn("task output", work);
        follower
    }

    fn output_of(&self, task: TaskId, home: &Home) -> Source {
        Source {
            task,
            dir: home.dir().into(),
            bounds: Bounds {
                bytes_max: self.config.log_spool_bytes_max,
                lines_per_sec: self.config.log_lines_per_sec_max,
            },
            watcher: self.watcher.clone(),
        }
    }

    /// Runs work about one task in the background. It ends with the agent, the task itself doesn't.
    pub(crate) fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.background.spawn(name, work);
    }

    /// Lets go of all tasks: they run on, and the next agent takes them up.
    pub(crate) fn let_go(&self) {
        self.background.let_go();
    }

    /// Makes up for what a start took of what waits for one.
    pub(crate) fn refill(&self) {
        self.pool.refill();
        self.spares.refill();
    }

    /// A task became ready.
    pub(crate) fn started(&self, took: Duration) {
        self.start_seconds.observe(took.as_secs_f64());
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path)
}

/// Tells this agent's control groups and containers from those of other agents on the machine. Stable as long as
/// the data directory stays where it is.
fn scope(data_dir: &Path) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    to_hex(&hash[..6])
}

fn shim(config: &AgentConfig) -> Result<PathBuf, Error> {
    let path = if config.shim.as_os_str().is_empty() {
        let program = std::env::current_exe().map_err(|source| Error::Io {
            doing: "finding the running program",
            source,
        })?;
        program.with_file_name(SHIM_NAME)
    } else {
        config.shim.clone()
    };
    if path.is_file() {
        Ok(path)
    } else {
        Err(Error::ShimMissing(path))
    }
}

fn address(config: &Config) -> Result<String, Error> {
    if !config.agent.address_override.is_empty() {
        return Ok(config.agent.address_override.clone());
    }
    let found = machine::address(Schedulers::new(config).current());
    found
        .map(|address| address.to_string())
        .map_err(|source| Error::Io {
            doing: "finding this node's address (set agent.address_override)",
            source,
        })
}
