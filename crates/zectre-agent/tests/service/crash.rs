//! The agent is killed again and again, at any moment, under load.

use crate::{
    agent::{Agent, processes_of},
    world::{World, until},
};
use std::{
    collections::{BTreeSet, VecDeque},
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use zectre_common::{id::TaskId, state::TaskState, wire::agent::TaskOrder};

/// How often it is killed.
const KILLS: u32 = 100;
/// Tasks that serve all the time.
const STEADY: usize = 4;
/// Tasks that come and go beside them.
const CHURN: usize = 6;

/// A small generator of moments; what is tried differs from run to run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// From one round over all ports to the next: without one, this client alone takes half of the machine from all other tests.
const PACE: Duration = Duration::from_millis(5);

/// Requests that go on until the load is stopped.
struct Load {
    stop: AtomicBool,
    answered: AtomicU64,
}

impl Load {
    /// Asks every port in turn, each time over a new connection, until it is told to stop.
    fn ask_on(&self, ports: &[u16]) -> Result<(), String> {
        while !self.stop.load(Ordering::Relaxed) {
            for port in ports {
                match request(*port) {
                    Ok(answer) if answer.starts_with("HTTP/1.1 200") => {
                        self.answered.fetch_add(1, Ordering::Relaxed);
                    }
                    other => return Err(format!("port {port}: {other:?}")),
                }
            }
            std::thread::park_timeout(PACE);
        }
        Ok(())
    }
}

fn request(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Tasks that come and go; their ports are given again once they have ended.
struct Churn {
    template: TaskOrder,
    free: VecDeque<u16>,
    live: VecDeque<(TaskId, u16)>,
    stopping: Vec<(TaskId, u16)>,
    all: Vec<TaskId>,
}

impl Churn {
    fn new(world: &World) -> Self {
        Self {
            template: world.guest("serve"),
            free: (0..CHURN * 3).map(|_| world.port()).collect(),
            live: VecDeque::new(),
            stopping: Vec::new(),
            all: Vec::new(),
        }
    }

    /// One more is wanted, and the oldest no longer.
    fn turn(&mut self, world: &World) {
        if let Some(port) = self.free.pop_front() {
            let mut order = self.template.clone();
            order.port = port;
            let task = world.want(order);
            self.live.push_back((task, port));
            self.all.push(task);
        }
        if self.live.len() > CHURN
            && let Some((task, port)) = self.live.pop_front()
        {
            world.want_stopped(task);
            self.stopping.push((task, port));
        }
    }

    /// Ports of those that have ended can be used again.
    fn free_ports(&mut self, world: &World) {
        let ended = &world.seen().ended;
        self.stopping.retain(|(task, port)| {
            let gone = ended.contains_key(task);
            if gone {
                self.free.push_back(*port);
            }
            !gone
        });
    }

    fn present(&self) -> impl Iterator<Item = TaskId> {
        self.live.iter().chain(&self.stopping).map(|(task, _)| *task)
    }
}

/// Kills the agent and starts it again, over and over, while tasks come and go.
async fn kill_again_and_again(
    world: &World,
    mut agent: Agent,
    steady: &[TaskId],
    churn: &mut Churn,
) -> Agent {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mut chance = Chance(clock.map_or(1, |now| now.as_nanos() as u64 | 1));
    let mut registrations = 0;
    for _ in 0..KILLS {
        churn.turn(world);
        // Most live long enough to work; some are killed before they have begun.
        if chance.below(4) > 0 {
            until("the agent registers", async || {
                world.registrations() > registrations
            })
            .await;
        }
        let moment = Duration::from_micros(chance.below(120_000));
        tokio::time::sleep(moment).await;
        agent.kill();
        for task in steady.iter().copied().chain(churn.present()) {
            let found = processes_of(task);
            assert!(found.len() <= 1, "task {task} runs twice: {found:?}");
        }
        registrations = world.registrations();
        agent = Agent::start(world);
        churn.free_ports(world);
    }
    agent
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_a_hundred_times_no_request_fails_and_no_task_starts_twice() {
    let world = World::new().await;
    let agent = Agent::start(&world);
    let (mut steady, mut ports) = (Vec::new(), Vec::new());
    for _ in 0..STEADY {
        let order = world.guest("serve");
        ports.push(order.port);
        steady.push(world.want(order));
    }
    for task in &steady {
        world.reported(*task, TaskState::Running).await;
    }
    let programs: Vec<_> = steady.iter().map(|task| processes_of(*task)).collect();
    let load = Arc::new(Load {
        stop: AtomicBool::new(false),
        answered: AtomicU64::new(0),
    });
    let asking = load.clone();
    let client = tokio::task::spawn_blocking(move || asking.ask_on(&ports));

    let mut churn = Churn::new(&world);
    let agent = kill_again_and_again(&world, agent, &steady, &mut churn).await;

    load.stop.store(true, Ordering::Relaxed);
    client.await.expect("it counts").expect("no request fails");
    assert!(
        load.answered.load(Ordering::Relaxed) > u64::from(KILLS),
        "it was under load"
    );
    let still: Vec<_> = steady.iter().map(|task| processes_of(*task)).collect();
    assert_eq!(still, programs, "the very same processes");
    for task in steady
        .iter()
        .copied()
        .chain(churn.live.iter().map(|(task, _)| *task))
    {
        world.want_stopped(task);
    }
    until("all have ended", async || world.seen().wanted.is_empty()).await;
    all_ended_once(&world, &steady, &churn).await;
    drop(agent);
}

/// Every task that was ever wanted was stopped as ordered, once, and nothing of it is left.
async fn all_ended_once(world: &World, steady: &[TaskId], churn: &Churn) {
    let ended = world.seen().ended.clone();
    let failed: Vec<_> = ended
        .values()
        .filter(|report| report.state != TaskState::Stopped)
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    let wanted: BTreeSet<TaskId> = steady.iter().chain(&churn.all).copied().collect();
    assert_eq!(ended.keys().copied().collect::<BTreeSet<_>>(), wanted);
    for task in &wanted {
        assert!(processes_of(*task).is_empty(), "task {task} is left");
    }
    for task in steady {
        world.logged(*task, "serving").await;
        let lines = world.lines(*task);
        let said: Vec<_> = lines.iter().map(|line| line.message.as_str()).collect();
        assert_eq!(
            said,
            ["serving"],
            "one start, one line, neither lost nor told twice"
        );
    }
}
