//! People: they deploy, change, and take back, at any moment, also in the middle of something else. They write what
//! the API writes, and nothing more.

use crate::{
    database::{Database, OperationRow},
    life::START_TIMEOUT_SECS,
    sim::{Act, MS, SECOND, Sim, Us, note},
    trace::short,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use uuid::Uuid;
use zectre_common::{
    id::{ApplicationId, DeploymentId, EnvironmentId, NodeId, TaskId},
    spec::{DeploymentRequest, DeploymentSpec, RestartPolicy, Strategy},
    state::{DeploymentStatus, Eligibility, Health, OperationKind, TaskState},
};
use zectre_scheduler_core::{Deployment, Environment, Operation, Source};

/// How the program of a deployment behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// It serves.
    Serves,
    /// It serves, and ignores SIGTERM.
    Stubborn,
    /// It serves, and crashes now and then.
    Flaky,
    /// It serves, and begins to fail its checks.
    Sickens,
    /// It never listens.
    Hangs,
    /// It ends before it listens.
    Exits(i32),
    /// Its artifact is gone.
    Lost,
    /// It runs to completion.
    Job(i32),
}

impl Program {
    /// It can serve, so a rollout of it can succeed.
    pub(crate) const fn works(self) -> bool {
        matches!(
            self,
            Self::Serves | Self::Stubborn | Self::Flaky | Self::Sickens | Self::Job(0)
        )
    }
}

const STRATEGIES: &[&str] = &[
    r#""rolling""#,
    r#"{"type":"rolling","max_surge":0,"max_unavailable":1}"#,
    r#"{"type":"rolling","max_surge":2,"max_unavailable":1}"#,
    r#""blue_green""#,
    r#""recreate""#,
    r#"{"type":"canary","weight":20,"auto_promote_secs":10}"#,
    r#"{"type":"canary","weight":50}"#,
];
const PROGRAMS: &[Program] = &[
    Program::Serves,
    Program::Serves,
    Program::Serves,
    Program::Serves,
    Program::Stubborn,
    Program::Flaky,
    Program::Sickens,
    Program::Hangs,
    Program::Exits(1),
    Program::Exits(0),
    Program::Lost,
    Program::Job(0),
    Program::Job(1),
];

/// An application, with its environments.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) id: ApplicationId,
    pub(crate) environments: Vec<EnvironmentId>,
    versions: u32,
    pub(crate) deleted_us: Option<Us>,
}

/// What people have asked for.
#[derive(Debug, Default)]
pub(crate) struct Operator {
    pub(crate) applications: Vec<Application>,
    programs: BTreeMap<DeploymentId, (Program, RestartPolicy)>,
    building: BTreeSet<DeploymentId>,
    /// Somebody asked for another one in its stead.
    pub(crate) stopped: BTreeSet<TaskId>,
    /// What was asked for at all.
    pub(crate) asked: BTreeSet<OperationKind>,
    operations: i64,
}

impl Operator {
    /// How a deployment's program behaves.
    pub(crate) fn program(&self, id: DeploymentId) -> Program {
        self.programs
            .get(&id)
            .map_or(Program::Serves, |(program, _)| *program)
    }

    /// Its restart policy.
    pub(crate) fn restart_policy(&self, id: DeploymentId) -> RestartPolicy {
        let known = self.programs.get(&id);
        known.map_or(RestartPolicy::Always, |(_, restart)| *restart)
    }

    /// No order to start it can be made.
    pub(crate) fn lacks_artifact(&self, id: DeploymentId) -> bool {
        self.program(id) == Program::Lost
    }

    /// Whether the environment's application was deleted.
    pub(crate) fn is_deleted(&self, environment: EnvironmentId) -> bool {
        let of = |app: &&Application| app.environments.contains(&environment);
        self.applications
            .iter()
            .find(of)
            .is_none_or(|app| app.deleted_us.is_some())
    }
}

/// Waiting deployments whose build has ended.
pub(crate) fn sourced(database: &Database) -> Vec<DeploymentId> {
    let waits = |d: &&Deployment| {
        d.status == DeploymentStatus::Pending
            && d.rollout_started_at.is_none()
            && matches!(d.source, Source::Ready | Source::BuildFailed { .. })
    };
    database
        .deployments
        .values()
        .filter(waits)
        .map(|d| d.id)
        .collect()
}

impl Sim {
    fn fresh_uuid(&mut self) -> Uuid {
        Uuid::from_u128(u128::from(self.fresh()))
    }

    /// The applications that are there from the beginning.
    pub(crate) fn found_applications(&mut self) {
        for _ in 0..self.random.between(1, 3) {
            self.found_application();
        }
    }

    pub(crate) fn found_application(&mut self) {
        let id = ApplicationId::from_uuid(self.fresh_uuid());
        let mut environments = Vec::new();
        for _ in 0..self.random.between(1, 2) {
            let environment = EnvironmentId::from_uuid(self.fresh_uuid());
            let row = Environment {
                id: environment,
                application_id: id,
                slug: "development".into(),
                current: None,
                target: None,
                target_weight: None,
                open: BTreeSet::new(),
            };
            self.database.environments.insert(environment, row);
            environments.push(environment);
        }
        self.operator.applications.push(Application {
            id,
            environments,
            versions: 0,
            deleted_us: None,
        });
    }

    /// The next wish.
    pub(crate) fn next_operation(&mut self) {
        if !self.is_stormy() {
            return self.end_storm();
        }
        let pause_us = self.random.between(300 * MS, 8 * SECOND);
        self.after(pause_us, Act::Operate);
        if self.database.is_down {
            return;
        }
        match self.random.below(100) {
            0..34 => self.deploy(),
            34..46 => self.patch(),
            46..80 => self.ask_for_something(),
            80..90 => self.change_node(),
            90..93 => self.stop_some_task(),
            93..95 => self.delete_application(),
            95..97 => self.delete_node(),
            _ => self.finish_builds(false),
        }
    }

    /// What is left over is brought to an end, so that everything can come to rest.
    fn end_storm(&mut self) {
        self.finish_builds(true);
        for node in self.database.nodes.keys().copied().collect::<Vec<_>>() {
            self.want(node, Eligibility::Eligible);
        }
        let waiting: Vec<DeploymentId> = self
            .database
            .environments
            .values()
            .filter_map(|environment| environment.target)
            .filter(|id| self.waits_for_people(*id))
            .collect();
        for id in waiting {
            self.ask(OperationKind::Promote, Some(id), None, None);
        }
        self.after(20 * SECOND, Act::Operate);
    }

    fn waits_for_people(&self, id: DeploymentId) -> bool {
        let spec = self.database.deployments.get(&id).map(|d| d.spec.strategy);
        matches!(
            spec,
            Some(Strategy::Canary {
                auto_promote_secs: None,
                ..
            })
        )
    }

    fn live_environments(&self) -> Vec<(usize, EnvironmentId)> {
        let live = self.operator.applications.iter().enumerate();
        live.filter(|(_, app)| app.deleted_us.is_none())
            .flat_map(|(index, app)| app.environments.iter().map(move |e| (index, *e)))
            .collect()
    }

    fn live_deployment(&mut self) -> Option<DeploymentId> {
        let live: BTreeSet<EnvironmentId> = self.live_environments().into_iter().map(|(_, e)| e).collect();
        let all = self.database.deployments.values();
        let mut ids: Vec<DeploymentId> = all
            .filter(|d| live.contains(&d.environment_id))
            .map(|d| d.id)
            .collect();
        // What is new is more interesting.
        let old = ids.len().saturating_sub(6);
        ids.drain(..old);
        self.random.pick(&ids)
    }

    /// A new version.
    fn deploy(&mut self) {
        let environments = self.live_environments();
        let Some((app, environment_id)) = self.random.pick(&environments) else {
            return self.found_application();
        };
        let program = self.random.pick(PROGRAMS).unwrap_or(Program::Serves);
        let spec = self.spec(program);
        let id = DeploymentId::from_uuid(self.fresh_uuid());
        self.operator.programs.insert(id, (program, spec.restart));
        let application = &mut self.operator.applications[app];
        application.versions += 1;
        let (application_id, version) = (application.id, application.versions);
        let source = if self.random.chance(150) {
            self.operator.building.insert(id);
            Source::Building
        } else {
            Source::Ready
        };
        note!(
            self,
            "deploy {} v{version} to {}: {program:?}, {} replicas, {:?}, {source:?}, limit {:?}",
            short(id.get()),
            short(environment_id.get()),
            spec.replicas,
            spec.strategy,
            spec.max_runtime_secs
        );
        let row = self.deployment_row(id, application_id, environment_id, version, spec, source);
        self.database.deployments.insert(id, row);
        self.ask(OperationKind::Deploy, Some(id), None, None);
    }

    fn deployment_row(
        &self,
        id: DeploymentId,
        application_id: ApplicationId,
        environment_id: EnvironmentId,
        version: u32,
        spec: DeploymentSpec,
        source: Source,
    ) -> Deployment {
        Deployment {
            id,
            application_id,
            environment_id,
            version,
            artifact_id: None,
            source,
            replicas: spec.replicas,
            idle_timeout_secs: spec.idle_timeout_secs,
            cold_start_enabled: spec.cold_start_enabled,
            spec: Arc::new(spec),
            status: DeploymentStatus::Pending,
            reason: None,
            message: None,
            evidence: None,
            health: Health::Down,
            asleep: false,
            previous_id: None,
            created_at: self.clock(0),
            rollout_started_at: None,
            promoted_at: None,
            finished_at: None,
            last_active_at: None,
            rollout_failures: 0,
            completed: BTreeSet::new(),
            backoff: BTreeMap::new(),
        }
    }

    fn spec(&mut self, program: Program) -> DeploymentSpec {
        let least = u64::from(matches!(program, Program::Job(_)));
        let replicas = self.random.between(least, 4);
        let restart = match program {
            Program::Job(_) => "never",
            _ if self.random.chance(100) => "on_failure",
            _ => "always",
        };
        let strategy = self.random.pick(STRATEGIES).unwrap_or(STRATEGIES[0]);
        let (cpu, memory) = (self.random.between(1, 3) * 100, self.random.between(1, 3) * 128);
        let idle_secs = self.random.pick(&[0, 20, 45, 90]).unwrap_or(0);
        let (rollback, cold) = (self.random.chance(700), self.random.chance(900));
        let deadline_secs = self.random.pick(&[20, 40, 60]).unwrap_or(60);
        let grace_secs = self.random.between(1, 6);
        let limits: &[&str] = match program {
            Program::Job(_) => &["null", "null", "5", "9"],
            _ => &["null", "null", "null", "null", "60", "75"],
        };
        let limit_secs = self.random.pick(limits).unwrap_or("null");
        let json = format!(
            r#"{{"replicas":{replicas},"restart":"{restart}","strategy":{strategy},"auto_rollback":{rollback},
                "idle_timeout_secs":{idle_secs},"progress_deadline_secs":{deadline_secs},"cold_start_enabled":{cold},
                "stop_grace_secs":{grace_secs},"max_runtime_secs":{limit_secs},"resources":{{"cpu":"{cpu}m","memory":"{memory}Mi"}},
                "networking":{{"health_check":{{"start_timeout":"{START_TIMEOUT_SECS}s"}}}}}}"#
        );
        let request: DeploymentRequest = serde_json::from_str(&json).expect("a request of known fields");
        request
            .resolve(&DeploymentRequest::default())
            .expect("within the bounds of a spec")
    }

    /// Changes what may change of a deployment.
    fn patch(&mut self) {
        let Some(id) = self.live_deployment() else { return };
        let program = self.operator.program(id);
        let least = u64::from(matches!(program, Program::Job(_)));
        let replicas = self.random.between(least, 4) as u32;
        let idle_secs = self.random.pick(&[0, 20, 60]).unwrap_or(0);
        let (scales, cold) = (self.random.chance(700), self.random.chance(800));
        let Some(row) = self.database.deployments.get_mut(&id) else {
            return;
        };
        if scales && !row.is_job() {
            row.replicas = replicas;
        } else {
            (row.idle_timeout_secs, row.cold_start_enabled) = (idle_secs, cold);
        }
        let (now, cold) = (row.replicas, row.cold_start_enabled);
        note!(
            self,
            "patch {}: {now} replicas, cold start {cold}",
            short(id.get())
        );
        self.ask(OperationKind::Reconcile, Some(id), None, None);
    }

    fn ask_for_something(&mut self) {
        const KINDS: &[OperationKind] = &[
            OperationKind::Promote,
            OperationKind::Rollback,
            OperationKind::Cancel,
            OperationKind::Restart,
            OperationKind::Sleep,
            OperationKind::Wake,
        ];
        if let (Some(kind), Some(id)) = (self.random.pick(KINDS), self.live_deployment()) {
            self.ask(kind, Some(id), None, None);
        }
    }

    fn stop_some_task(&mut self) {
        let live = self.database.tasks.values().filter(|task| !task.state.is_ended());
        let ids: Vec<(TaskId, DeploymentId)> = live.map(|task| (task.id, task.deployment_id)).collect();
        if let Some((task, deployment)) = self.random.pick(&ids) {
            self.ask(OperationKind::StopTask, Some(deployment), Some(task), None);
        }
    }

    fn change_node(&mut self) {
        let ids: Vec<NodeId> = self.database.nodes.keys().copied().collect();
        let kind = self.random.pick(&[
            Eligibility::Eligible,
            Eligibility::Eligible,
            Eligibility::Cordoned,
            Eligibility::Draining,
        ]);
        if let (Some(id), Some(kind)) = (self.random.pick(&ids), kind) {
            self.want(id, kind);
        }
    }

    fn want(&mut self, id: NodeId, eligibility: Eligibility) {
        let row = self.database.nodes.get_mut(&id);
        if let Some(node) = row.filter(|node| node.eligibility != eligibility) {
            node.eligibility = eligibility;
            note!(self, "node {} is to be {eligibility}", short(id.get()));
            self.ask(OperationKind::Node, None, None, Some(id));
        }
    }

    /// Builds end, well or badly.
    fn finish_builds(&mut self, all: bool) {
        for id in std::mem::take(&mut self.operator.building) {
            if !all && self.random.chance(400) {
                self.operator.building.insert(id);
                continue;
            }
            let is_built = self.random.chance(700);
            note!(self, "the build of {} ended: {is_built}", short(id.get()));
            if let Some(row) = self.database.deployments.get_mut(&id) {
                row.source = if is_built {
                    Source::Ready
                } else {
                    Source::BuildFailed {
                        message: "it did not compile".into(),
                    }
                };
                self.ask(OperationKind::Reconcile, Some(id), None, None);
            }
        }
    }

    /// Writes an operation, in the transaction of what it is about, and tells the leader.
    pub(crate) fn ask(
        &mut self,
        kind: OperationKind,
        deployment_id: Option<DeploymentId>,
        task_id: Option<TaskId>,
        node_id: Option<NodeId>,
    ) {
        self.write_operation(kind, deployment_id, task_id, node_id);
        self.nudge();
    }

    /// The same, and the call to the leader is lost.
    pub(crate) fn write_operation(
        &mut self,
        kind: OperationKind,
        deployment_id: Option<DeploymentId>,
        task_id: Option<TaskId>,
        node_id: Option<NodeId>,
    ) {
        self.operator.stopped.extend(task_id);
        self.operator.asked.insert(kind);
        self.operator.operations += 1;
        let id = self.operator.operations;
        let about = deployment_id.map_or_else(String::new, |id| short(id.get()));
        note!(self, "operation {id}: {kind} {about}");
        let operation = Operation {
            id,
            kind,
            deployment_id,
            task_id,
            node_id,
            actor: "user:sim".into(),
            request_id: None,
        };
        self.database.operations.push(OperationRow {
            operation,
            applied: 0,
        });
    }

    /// Live tasks of an environment that are ready, by the rows.
    pub(crate) fn ready_rows(&self, id: DeploymentId) -> usize {
        let live = self.database.live_tasks_of(id);
        live.filter(|task| task.state == TaskState::Running && task.routed && task.healthy)
            .count()
    }
}
