//! A hostile program in a task, started by a real agent: it must get nowhere, and honest programs must not notice.
//!
//! What a machine can't enforce is said in the node's report, and only that may fail here.

use crate::{
    agent::{Agent, Linking, ask, build},
    world::{World, until},
};
use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    process::Command,
};
use zectre_agent::shim::Started;
use zectre_common::{
    id::TaskId,
    quantity::MemoryBytes,
    spec::{RestartPolicy, Volume},
    state::{ArtifactKind, Reason, TaskState},
    wire::{
        agent::{Action, ActionKind, TaskOrder},
        node::Enforcement,
    },
};

/// Of the attempts, those that succeed for any program that isn't held, and harm nobody.
const HARMLESS: &str = "read-open-file climb-out read-through-link write-open-directory reach-open-socket list-tasks \
    see-other-processes read-victim-environment read-victim-command signal-victim new-user-namespace \
    list-sockets-of-all multipath-socket reach-abstract-socket listen-elsewhere";
const MEMORY_BYTES: u64 = 64 << 20;

/// What there is to get for one who gets out: open to every user of the machine, so that nothing but a wall is in the
/// way.
struct Prey {
    dir: tempfile::TempDir,
    abstract_name: String,
    free_port: u16,
    _sockets: [UnixListener; 2],
    victim: TaskId,
    victim_port: u16,
}

impl Prey {
    async fn new(world: &World) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its own");
        };
        open(dir.path(), 0o755);
        fs::write(dir.path().join("file"), "for everybody's eyes").expect("written");
        fs::create_dir(dir.path().join("open")).expect("made");
        open(&dir.path().join("open"), 0o1777);
        let socket = UnixListener::bind(dir.path().join("socket")).expect("bound");
        open(&dir.path().join("socket"), 0o777);
        let abstract_name = format!("zectre-test-{}", TaskId::new());
        let address = SocketAddr::from_abstract_name(&abstract_name).expect("a name");
        let in_the_open = UnixListener::bind_addr(&address).expect("bound");
        let mut order = world.guest("serve");
        order.application = "victim".into();
        order.env.insert("SECRET".into(), "of the victim".into());
        let victim_port = order.port;
        let victim = world.start(order).await;
        world.reported(victim, TaskState::Running).await;
        Self {
            dir,
            abstract_name,
            free_port: world.port(),
            _sockets: [socket, in_the_open],
            victim,
            victim_port,
        }
    }

    /// Tells the hostile program where to look.
    async fn clues(&self, world: &World, agent: &Agent) -> BTreeMap<String, String> {
        let (_, node) = world.node().await;
        let started = started(world, self.victim);
        let path = |name| self.dir.path().join(name).display().to_string();
        let scratch = MEMORY_BYTES / 2 + (1 << 20);
        [
            ("OPEN_FILE", path("file")),
            ("OPEN_DIR", path("open")),
            ("SOCKET", path("socket")),
            ("ABSTRACT", self.abstract_name.clone()),
            ("FREE_PORT", self.free_port.to_string()),
            ("VICTIM_PORT", self.victim_port.to_string()),
            ("VICTIM_PID", started.program.pid.to_string()),
            ("SHIM_PID", started.shim.pid.to_string()),
            ("AGENT_PID", agent.pid().to_string()),
            ("AGENT_PORT", node.actions_port.to_string()),
            ("VICTIM_TASK", self.victim.to_string()),
            ("DATA_DIR", world.data_dir.path().display().to_string()),
            ("SCRATCH_BYTES", scratch.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

fn started(world: &World, task: TaskId) -> Started {
    let record = fs::read(world.task_dir(task).join("started.json")).expect("a record");
    serde_json::from_slice(&record).expect("JSON")
}

/// An order for a program that ends by itself.
fn job(world: &World, program: PathBuf, env: BTreeMap<String, String>) -> TaskOrder {
    let bytes = fs::read(program).expect("it was built");
    let mut order = world.order(world.artifact(ArtifactKind::Binary, bytes));
    order.restart = RestartPolicy::Never;
    order.resources.memory = MemoryBytes(MEMORY_BYTES);
    order.env = env;
    order
}

fn hostile(world: &World, env: BTreeMap<String, String>) -> TaskOrder {
    job(world, build("escape", Linking::Static), env)
}

/// Whether the report says that this wall stands.
fn stands(report: &Enforcement, wall: &str) -> bool {
    match wall {
        "files" => report.files,
        "namespaces" => report.namespaces,
        "seccomp" => report.seccomp,
        "users" => report.users,
        "landlock" => report.landlock >= 6,
        "ports" => report.ports,
        "metadata" => report.metadata,
        // Nothing of the machine's: the agent's own.
        "keys" => true,
        other => panic!("no wall is called {other}"),
    }
}

/// The attempts of a run that is over: wall, name, and whether it was held.
fn attempts(lines: &[String]) -> Vec<(String, String, bool)> {
    let read = |line: &String| {
        let (head, _) = line.split_once(": ")?;
        let mut words = head.split(' ');
        let held = match words.next()? {
            "held" => true,
            "ESCAPED" => false,
            _ => return None,
        };
        Some((words.next()?.to_owned(), words.next()?.to_owned(), held))
    };
    let read: Vec<_> = lines.iter().filter_map(read).collect();
    let tried = lines
        .iter()
        .find_map(|line| line.strip_prefix("tried ")?.parse().ok());
    assert_eq!(Some(read.len()), tried, "it was ended in the middle: {lines:?}");
    read
}

async fn all_lines(world: &World, task: TaskId, last: &str) -> Vec<String> {
    let lines = world.logged(task, last).await;
    lines.into_iter().map(|line| line.message).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_program_gets_nowhere() {
    let world = World::new().await;
    let agent = Agent::start(&world);
    let (_, node) = world.node().await;
    let report = node.enforcement;
    let prey = Prey::new(&world).await;
    let task = world
        .start(hostile(&world, prey.clues(&world, &agent).await))
        .await;
    let lines = all_lines(&world, task, "tried ").await;
    println!("{}\n{report:?}", lines.join("\n"));
    world.reported(task, TaskState::Stopped).await;
    let attempts = attempts(&lines);
    let escaped: Vec<_> = attempts
        .iter()
        .filter(|(wall, _, held)| !held && stands(&report, wall))
        .collect();
    assert!(escaped.is_empty(), "{escaped:?}\n{}", lines.join("\n"));
    assert!(attempts.len() >= 100, "only {} attempts", attempts.len());
    assert_eq!(ask(prey.victim_port, "/").await, Some(prey.victim.to_string()));
    assert_eq!(
        fs::read_dir(prey.dir.path().join("open")).expect("there").count(),
        0
    );
}

/// Otherwise the test above could pass because the program doesn't know how to attack.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_program_gets_everywhere_when_nothing_holds_it() {
    let world = World::new().await;
    let agent = Agent::start(&world);
    let (_, node) = world.node().await;
    let prey = Prey::new(&world).await;
    let home = tempfile::tempdir().expect("a directory");
    let output = Command::new(build("escape", Linking::Static))
        .env_clear()
        .envs(prey.clues(&world, &agent).await)
        .env("HOME", home.path())
        .env("ONLY", HARMLESS)
        .output()
        .expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<String> = text.lines().map(Into::into).collect();
    let held: Vec<_> = attempts(&lines)
        .into_iter()
        .filter(|(_, _, held)| *held)
        .collect();
    if node.enforcement.users {
        assert!(held.is_empty(), "{held:?}\n{text}");
    }
    assert_eq!(attempts(&lines).len(), HARMLESS.split_whitespace().count());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_program_notices_nothing() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let (_, node) = world.node().await;
    let mut env = BTreeMap::new();
    if node.enforcement.memory && node.enforcement.files {
        env.insert("MEMORY_BYTES".into(), MEMORY_BYTES.to_string());
    }
    if Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        env.insert("HOST_HAS_CERTIFICATES".into(), "1".into());
    }
    let order = job(&world, build("citizen", Linking::Dynamic), env);
    let task = world.start(order).await;
    let lines = all_lines(&world, task, "all tried").await;
    let broken: Vec<_> = lines.iter().filter(|line| !line.starts_with("works: ")).collect();
    assert_eq!(broken, ["all tried"], "{lines:?}");
    assert_eq!(lines.len(), 19);
    let report = world.reported(task, TaskState::Stopped).await;
    assert_eq!(report.exit_code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_all_of_the_disk_that_a_task_can_write() {
    let world = World::new().await;
    let volume = tempfile::tempdir().expect("a directory");
    fs::set_permissions(volume.path(), fs::Permissions::from_mode(0o777)).expect("its own");
    let path = volume.path().canonicalize().expect("there").display().to_string();
    let _agent = Agent::start_with(
        &world,
        &[("ZECTRE__AGENT__ALLOWED_VOLUME_PATHS", &format!("[{path:?}]"))],
    );
    let script = format!("#!/bin/sh\necho kept >{path}/file && ln -s /app {path}/link && cat {path}/file\n");
    let mut order = world.order(world.artifact(ArtifactKind::Binary, script.into_bytes()));
    order.restart = RestartPolicy::Never;
    order.volumes = vec![Volume {
        host_path: path.clone(),
        container_path: path.clone(),
    }];
    let task = world.start(order).await;
    world.logged(task, "kept").await;
    let report = world.reported(task, TaskState::Stopped).await;
    assert_eq!(report.exit_code, Some(0), "{report:?}");
    assert_eq!(
        fs::read_to_string(volume.path().join("file")).expect("kept"),
        "kept\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_has_namespaces_of_its_own() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let (_, node) = world.node().await;
    let task = world.start(world.guest("serve")).await;
    world.reported(task, TaskState::Running).await;
    let pid = started(&world, task).program.pid;
    for (kind, own) in [
        ("pid", true),
        ("mnt", true),
        ("ipc", true),
        ("uts", true),
        ("cgroup", true),
        ("net", false),
        ("user", false),
    ] {
        let link = |process: &str| fs::read_link(format!("/proc/{process}/ns/{kind}")).expect("a namespace");
        let differs = link(&pid.to_string()) != link("self");
        assert_eq!(differs, own && node.enforcement.namespaces, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_go_off_inside() {
    let world = World::new().await;
    let agent = Agent::start(&world);
    let (_, node) = world.node().await;
    let prey = Prey::new(&world).await;
    let clues = prey.clues(&world, &agent).await;
    let bomb = |mode: &str| {
        let mut env = clues.clone();
        env.insert("MODE".into(), mode.into());
        hostile(&world, env)
    };
    if node.enforcement.pids {
        let mut order = bomb("fork-bomb");
        // So that memory isn't what ends it first.
        order.resources.memory = MemoryBytes(1 << 30);
        let task = world.start(order).await;
        let lines = all_lines(&world, task, "processes ").await;
        let made: u32 = lines[0]
            .strip_prefix("processes ")
            .and_then(|made| made.parse().ok())
            .expect("a number");
        assert!((100..1_024).contains(&made), "{made}");
        let group = started(&world, task).groups[0].clone();
        world.stop(task, 0).await;
        world.reported(task, TaskState::Stopped).await;
        assert!(!group.exists(), "all of it is gone");
    }
    if node.enforcement.memory {
        let task = world.start(bomb("memory-bomb")).await;
        world.failed(task, Reason::OomKilled).await;
    }
    assert_eq!(ask(prey.victim_port, "/").await, Some(prey.victim.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_behind() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let mut order = hostile(&world, BTreeMap::from([("MODE".into(), "daemon".into())]));
    order.restart = RestartPolicy::Never;
    let port = order.port;
    let task = world.start(order).await;
    world.logged(task, "left behind").await;
    let report = world.reported(task, TaskState::Stopped).await;
    assert_eq!(report.exit_code, Some(0));
    assert!(
        TcpListener::bind(("127.0.0.1", port)).is_ok(),
        "the server that was left behind still listens"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_does_not_outlive_its_supervisor() {
    let world = World::new().await;
    let agent = Agent::start(&world);
    let (_, node) = world.node().await;
    let order = world.guest("fork");
    let port = order.port;
    let task = world.start(order).await;
    world.reported(task, TaskState::Running).await;
    agent.kill();
    let started = started(&world, task);
    started.shim.signal(rustix::process::Signal::KILL);
    if node.enforcement.namespaces {
        // One by one: that the child's port is closed says nothing yet about its parent.
        until("the kernel ends all of it", async || {
            ask(port, "/").await.is_none() && !started.program.is_alive()
        })
        .await;
    }
    let _agent = Agent::start(&world);
    // Nothing that the program did: it is not held against it.
    let report = world.failed(task, Reason::NodeLost).await;
    assert_eq!((report.exit_code, report.signal), (None, None), "nobody saw it");
    assert_eq!(ask(port, "/").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_does_not_fill_the_disk_even_without_an_agent() {
    const SPOOL_BYTES: u64 = 4 << 20;
    let world = World::new().await;
    let spool = SPOOL_BYTES.to_string();
    let settings = [("ZECTRE__AGENT__LOG_SPOOL_BYTES_MAX", spool.as_str())];
    let agent = Agent::start_with(&world, &settings);
    let env = [("MODE", "flood"), ("FLOOD_BYTES", "200000000")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let task = world.start(hostile(&world, env.into())).await;
    let output = world.task_dir(task).join("stdout.log");
    until("it floods", async || {
        fs::metadata(&output).is_ok_and(|file| file.len() > 0)
    })
    .await;
    agent.kill();
    until("it ends while no agent reads", async || {
        world.task_dir(task).join("exit.json").exists()
    })
    .await;
    let file = fs::metadata(&output).expect("there");
    assert!(file.len() > 150_000_000, "it was allowed to go on");
    let held_bytes = file.blocks() * 512;
    assert!(
        held_bytes <= 2 * SPOOL_BYTES + (1 << 20),
        "{held_bytes} bytes on disk"
    );
    let _agent = Agent::start_with(&world, &settings);
    world.logged(task, "flooded").await;
}

/// Without root there is less to hold with; what is left holds, and the rest is said.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_root_says_what_it_cannot_hold() {
    let world = World::new().await;
    let bin = tempfile::tempdir().expect("a directory");
    let agent = Agent::start_as_nobody(&world, bin.path());
    let (_, node) = world.node().await;
    let report = node.enforcement;
    assert!(
        !report.users && !report.files && !report.namespaces && !report.metadata,
        "{report:?}"
    );
    for gap in ["agent's own user", "no files of their own", "metadata"] {
        assert!(
            report.gaps.iter().any(|said| said.contains(gap)),
            "{gap}: {:?}",
            report.gaps
        );
    }
    let prey = Prey::new(&world).await;
    assert_eq!(ask(prey.victim_port, "/").await, Some(prey.victim.to_string()));
    let mut env = prey.clues(&world, &agent).await;
    let only = "read-open-file climb-out read-through-link write-open-directory read-agent-credential list-tasks mount \
        new-user-namespace io-uring reach-abstract-socket listen-elsewhere share-victims-port";
    env.insert("ONLY".into(), only.into());
    let task = world.start(hostile(&world, env)).await;
    let lines = all_lines(&world, task, "tried ").await;
    for (_, name, held) in attempts(&lines) {
        let by_calls = ["mount", "new-user-namespace", "io-uring"].contains(&&*name);
        let by_landlock = if name.contains("listen") || name.contains("share") {
            report.ports
        } else {
            report.landlock >= 6
        };
        let expected = if by_calls { report.seccomp } else { by_landlock };
        assert!(held || !expected, "{name}: {lines:?}");
    }
    world.reported(task, TaskState::Stopped).await;
    // It left a link to the open file where the agent will remove all.
    let work = world.task_dir(task).join("work");
    assert!(fs::symlink_metadata(work.join("link")).is_ok_and(|link| link.is_symlink()));
    let forget = Action {
        task_id: task,
        generation: 2,
        kind: ActionKind::Forget,
    };
    world.send(1, vec![forget]).await.expect("accepted");
    until("its files are gone", async || !work.exists()).await;
    assert!(prey.dir.path().join("file").exists(), "the link was followed");
}
