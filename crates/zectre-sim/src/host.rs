//! A machine with its agent: what the agent holds survives its own end on disk, processes survive the agent, and
//! neither survives the machine. Orders are judged by the rules of the agent's `core::order`.

use crate::{
    leader::{Letter, Reply},
    network::Place,
    sim::{Act, MS, SECOND, Sim, Us, note},
    trace::short,
};
use std::collections::{BTreeMap, BTreeSet};
use zectre_common::{
    id::{DeploymentId, NodeId, TaskId},
    quantity::{CpuMillis, MemoryBytes},
    state::{Reason, TaskState},
    time::Time,
    wire::{
        agent::TaskReport,
        node::{Capacity, Enforcement},
    },
};
use zectre_scheduler_core::{Command, Event, NodeFacts};

/// How often an agent speaks.
const HEARTBEAT_US: Us = 2 * SECOND;
/// How long it waits for the answer to a digest.
pub(crate) const DIGEST_TIMEOUT_US: Us = 2 * HEARTBEAT_US;
/// How long it waits for any other answer.
pub(crate) const CALL_TIMEOUT_US: Us = 10 * SECOND;
/// Between two attempts to register or to tell news.
const PAUSE_US: Us = 300 * MS;

/// Something that is due on a node. The first number is the agent's incarnation: what was meant for an agent that
/// is gone is lost with its connections.
#[derive(Debug, Clone)]
pub(crate) enum HostAct {
    /// The machine or its agent starts.
    Boot,
    /// The agent ends, and starts at once.
    Restart,
    /// Try to register.
    Register(u64),
    /// The scheduler took the node in.
    Registered(u64, NodeId),
    /// The scheduler doesn't know this node.
    Unknown(u64),
    /// Time for the digest.
    Heartbeat(u64),
    /// The answer to a digest: call, leader's epoch, orders.
    Answer(u64, u64, u64, Vec<Command>),
    /// Pushed orders, with the leader's epoch.
    Orders(u64, u64, Vec<Command>),
    /// Time to tell news.
    Tell(u64),
    /// The answer to news: call, leader's epoch, orders.
    NewsTold(u64, u64, u64, Vec<Command>),
    /// Something in the life of a task.
    Life(u64, TaskId, crate::life::LifeAct),
    /// A process ends by itself: its task, its number, its exit code (none: killed).
    Exit(TaskId, u64, Option<i32>),
}

/// A task as the agent holds it, on disk.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) report: TaskReport,
    pub(crate) deployment: Option<DeploymentId>,
    pub(crate) port: Option<u16>,
    /// With which code its process ended, as its supervisor wrote down.
    pub(crate) exit_code: Option<i32>,
    /// The supervisor wrote something down: it did not lose its power with the process.
    pub(crate) is_exit_known: bool,
    /// It has had a process.
    pub(crate) was_started: bool,
    /// When its order was accepted, on disk.
    pub(crate) accepted_us: Us,
    /// It ran for as long as it may, and is being ended for that.
    pub(crate) is_timed_out: bool,
    /// It is to stop; only in memory until the report says so.
    pub(crate) is_stopping: bool,
}

/// A process of a task.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) number: u64,
    pub(crate) deployment: DeploymentId,
    pub(crate) port: Option<u16>,
    /// It answers on its port from then on.
    pub(crate) ready_us: Option<Us>,
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) facts: NodeFacts,
    pub(crate) node: Option<NodeId>,
    pub(crate) is_on: bool,
    pub(crate) agent_up: bool,
    pub(crate) incarnation: u64,
    /// The newest leader's epoch seen, on disk.
    pub(crate) epoch: u64,
    pub(crate) held: BTreeMap<TaskId, Held>,
    pub(crate) forgotten: BTreeMap<TaskId, u64>,
    pub(crate) news: BTreeSet<TaskId>,
    pub(crate) processes: BTreeMap<TaskId, Process>,
    registered: bool,
    digest_call: Option<(u64, Us)>,
    news_call: Option<(u64, Us, Vec<TaskId>)>,
    tell_due: bool,
}

/// A fresh report.
pub(crate) fn report(task: TaskId, generation: u64, state: TaskState) -> TaskReport {
    serde_json::from_value(serde_json::json!({
        "task_id": task, "generation": generation, "state": state, "healthy": false,
        "since": "2001-09-09T01:46:40Z",
    }))
    .expect("a report of its required fields is one")
}

/// What the scheduler says about a start that it could not make an order of.
pub(crate) fn missing_artifact(task: TaskId, generation: u64) -> TaskReport {
    TaskReport {
        reason: Some(Reason::ArtifactMissing),
        message: Some("its artifact is gone".into()),
        ..report(task, generation, TaskState::Failed)
    }
}

impl Sim {
    /// One more machine.
    pub(crate) fn add_host(&mut self) {
        let index = self.hosts.len();
        let slots = self.random.between(4, 8) as u32;
        let facts = NodeFacts {
            name: format!("n{index}"),
            address: format!("n{index}.test"),
            actions_port: 1,
            labels: BTreeMap::new(),
            capacity: Capacity {
                cpu: CpuMillis(self.random.between(8, 16) as u32 * 100),
                memory: MemoryBytes(self.random.between(6, 16) * (128 << 20)),
                task_slots: slots,
            },
            port_min: 20_000,
            // A few more ports than tasks, so that ports come round.
            port_max: 20_000 + slots as u16 + 2,
            container_enabled: false,
            enforcement: Enforcement::default(),
        };
        self.hosts.push(Host {
            facts,
            node: None,
            is_on: false,
            agent_up: false,
            incarnation: 0,
            epoch: 0,
            held: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            news: BTreeSet::new(),
            processes: BTreeMap::new(),
            registered: false,
            digest_call: None,
            news_call: None,
            tell_due: false,
        });
        self.after(10 * MS, Act::Host(index, HostAct::Boot));
    }

    pub(crate) fn perform_host(&mut self, index: usize, act: HostAct) {
        let host = &self.hosts[index];
        let is_current = |incarnation: u64| host.agent_up && host.incarnation == incarnation;
        match act {
            HostAct::Boot => self.boot(index),
            HostAct::Restart => {
                self.hosts[index].agent_up &= !self.is_stormy();
                self.boot(index);
            }
            HostAct::Exit(task, number, code) => self.process_exits(index, task, number, code),
            HostAct::Register(incarnation) if is_current(incarnation) => self.register(index),
            HostAct::Registered(incarnation, node) if is_current(incarnation) => {
                self.registered(index, node);
            }
            HostAct::Unknown(incarnation) if is_current(incarnation) => self.unknown(index),
            HostAct::Heartbeat(incarnation) if is_current(incarnation) => self.heartbeat(index),
            HostAct::Answer(incarnation, call, epoch, orders) if is_current(incarnation) => {
                self.digest_answered(index, call, epoch, orders);
            }
            HostAct::Orders(incarnation, epoch, orders) if is_current(incarnation) => {
                self.obey(index, epoch, orders);
            }
            HostAct::Tell(incarnation) if is_current(incarnation) => self.tell_news(index),
            HostAct::NewsTold(incarnation, call, epoch, orders) if is_current(incarnation) => {
                self.news_told(index, call, epoch, orders);
            }
            HostAct::Life(incarnation, task, act) if is_current(incarnation) => {
                self.perform_life(index, task, act);
            }
            _ => {}
        }
    }

    /// The scheduler doesn't know this node any more.
    fn unknown(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let incarnation = host.incarnation;
        if std::mem::take(&mut host.registered) {
            self.after(PAUSE_US, Act::Host(index, HostAct::Register(incarnation)));
        }
    }

    fn digest_answered(&mut self, index: usize, call: u64, epoch: u64, orders: Vec<Command>) {
        let asked = self.hosts[index].digest_call.take_if(|(sent, _)| *sent == call);
        if asked.is_some() {
            self.obey(index, epoch, orders);
        }
    }

    fn news_told(&mut self, index: usize, call: u64, epoch: u64, orders: Vec<Command>) {
        let told = self.hosts[index].news_call.take_if(|(sent, ..)| *sent == call);
        if told.is_none() {
            return;
        }
        self.obey(index, epoch, orders);
        self.news_due(index, 0);
    }

    fn boot(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        if host.agent_up {
            return;
        }
        (host.is_on, host.agent_up, host.registered) = (true, true, false);
        host.incarnation += 1;
        let incarnation = host.incarnation;
        (host.digest_call, host.news_call, host.tell_due) = (None, None, false);
        host.news.clear();
        host.forgotten.clear();
        note!(self, "the agent of host {index} starts");
        self.adopt(index);
        self.after(0, Act::Host(index, HostAct::Register(incarnation)));
    }

    fn register(&mut self, index: usize) {
        let host = &self.hosts[index];
        if host.registered {
            return;
        }
        let incarnation = host.incarnation;
        self.call_scheduler(Place::Host(index), Letter::Join(index, incarnation));
        self.after(SECOND, Act::Host(index, HostAct::Register(incarnation)));
    }

    fn registered(&mut self, index: usize, node: NodeId) {
        let host = &mut self.hosts[index];
        host.node = Some(node);
        if !std::mem::replace(&mut host.registered, true) {
            let incarnation = host.incarnation;
            self.after(0, Act::Host(index, HostAct::Heartbeat(incarnation)));
            self.news_due(index, 0);
        }
    }

    fn heartbeat(&mut self, index: usize) {
        let (now_us, call) = (self.now_us, self.fresh());
        let host = &mut self.hosts[index];
        if !host.registered {
            return;
        }
        let incarnation = host.incarnation;
        self.after(HEARTBEAT_US, Act::Host(index, HostAct::Heartbeat(incarnation)));
        let host = &mut self.hosts[index];
        let waits = host
            .digest_call
            .is_some_and(|(_, sent_us)| now_us - sent_us < DIGEST_TIMEOUT_US);
        let Some(node_id) = host.node.filter(|_| !waits) else {
            return;
        };
        host.digest_call = Some((call, now_us));
        let tasks = host.held.values().map(|held| held.report.clone()).collect();
        let event = Event::Heartbeat {
            node_id,
            // The scheduler's clock tells, once it is there.
            heard_at: Time::from_unix_ms(0),
            tasks,
        };
        let letter = Letter::Event(event, Reply::Digest(index, incarnation, call));
        self.call_scheduler(Place::Host(index), letter);
    }

    /// There is something to tell.
    pub(crate) fn news_due(&mut self, index: usize, delay_us: Us) {
        let host = &mut self.hosts[index];
        if !host.news.is_empty() && !std::mem::replace(&mut host.tell_due, true) {
            let incarnation = host.incarnation;
            self.after(delay_us, Act::Host(index, HostAct::Tell(incarnation)));
        }
    }

    fn tell_news(&mut self, index: usize) {
        let (now_us, call) = (self.now_us, self.fresh());
        let host = &mut self.hosts[index];
        host.tell_due = false;
        // What could not be told is told again.
        if let Some((_, _, untold)) = host
            .news_call
            .take_if(|(_, at, _)| now_us - *at >= CALL_TIMEOUT_US)
        {
            host.news.extend(untold);
        }
        if host.news_call.is_some() || host.node.is_none() || !host.registered {
            return self.news_due(index, PAUSE_US);
        }
        let ids: Vec<TaskId> = std::mem::take(&mut host.news).into_iter().collect();
        let tasks: Vec<TaskReport> = ids
            .iter()
            .filter_map(|id| host.held.get(id))
            .map(|held| held.report.clone())
            .collect();
        let (Some(node_id), false) = (host.node, tasks.is_empty()) else {
            return;
        };
        let incarnation = host.incarnation;
        host.news_call = Some((call, now_us, ids));
        let event = Event::TaskReports { node_id, tasks };
        let letter = Letter::Event(event, Reply::News(index, incarnation, call));
        self.call_scheduler(Place::Host(index), letter);
        // Whether or not an answer comes.
        let host = &mut self.hosts[index];
        host.tell_due = true;
        self.after(CALL_TIMEOUT_US, Act::Host(index, HostAct::Tell(incarnation)));
    }

    /// Changes a report and tells it.
    pub(crate) fn update(&mut self, index: usize, task: TaskId, change: impl FnOnce(&mut TaskReport)) {
        let host = &mut self.hosts[index];
        let Some(held) = host.held.get_mut(&task) else {
            return;
        };
        change(&mut held.report);
        let (state, generation) = (held.report.state, held.report.generation);
        host.news.insert(task);
        host.tell_due = false;
        note!(
            self,
            "host {index}: task {} is {state}, generation {generation}",
            short(task.get())
        );
        self.news_due(index, 0);
    }

    /// Carries out what is new of some orders.
    fn obey(&mut self, index: usize, epoch: u64, orders: Vec<Command>) {
        let host = &mut self.hosts[index];
        if epoch < host.epoch && !crate::is_planted!(NoAgentFence) {
            return;
        }
        host.epoch = host.epoch.max(epoch);
        self.check_obedience(index, epoch, &orders);
        for order in orders {
            self.obey_one(index, &order);
        }
    }

    fn obey_one(&mut self, index: usize, order: &Command) {
        let (task, generation) = match order {
            Command::Start { task, .. } => (task.id, task.generation),
            Command::Stop {
                task_id, generation, ..
            }
            | Command::Forget {
                task_id, generation, ..
            } => (*task_id, *generation),
            _ => return,
        };
        let host = &self.hosts[index];
        let held = host.held.get(&task).map(|held| &held.report);
        let known = held.map(|r| r.generation).or(host.forgotten.get(&task).copied());
        let has_ended = held.is_some_and(|report| report.state.is_ended());
        let is_newer = known.is_none_or(|known| generation > known);
        match order {
            Command::Forget { .. } if has_ended && known.is_some_and(|known| generation >= known) => {
                let host = &mut self.hosts[index];
                host.held.remove(&task);
                host.news.remove(&task);
                host.forgotten.insert(task, known.unwrap_or(0).max(generation));
            }
            Command::Forget { .. } => {}
            _ if !is_newer => {}
            Command::Start { task: wanted, .. } if held.is_none() => self.start_task(index, wanted),
            Command::Stop { grace, .. } if held.is_some() && !has_ended => {
                self.stop_task(index, task, generation, grace.duration());
            }
            Command::Stop { .. } if held.is_none() => {
                let mut stopped = report(task, generation, TaskState::Stopped);
                stopped.message = Some("it was not on this node".into());
                self.hold(index, stopped, None, None);
            }
            _ => self.update(index, task, |report| {
                report.generation = report.generation.max(generation);
            }),
        }
    }

    /// Takes a task up.
    pub(crate) fn hold(
        &mut self,
        index: usize,
        report: TaskReport,
        deployment: Option<DeploymentId>,
        port: Option<u16>,
    ) {
        let task = report.task_id;
        let held = Held {
            report,
            deployment,
            port,
            exit_code: None,
            is_exit_known: false,
            was_started: false,
            accepted_us: self.now_us,
            is_timed_out: false,
            is_stopping: false,
        };
        let is_start = held.report.state == TaskState::Starting;
        self.hosts[index].held.insert(task, held);
        // That it was taken on is told by the answer to the order.
        if !is_start {
            self.update(index, task, |_| {});
        }
    }
}
