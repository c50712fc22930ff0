use super::*;
use crate::live::Ledger;
use proptest::prelude::*;
use zectre_common::id::{ApplicationId, TaskId};

const DOMAIN: &str = "zectre.localhost";

struct World {
    rows: Rows,
    ledger: Ledger,
}

impl World {
    fn new() -> Self {
        Self {
            rows: Rows {
                epoch: 1,
                ..Rows::default()
            },
            ledger: Ledger::default(),
        }
    }

    fn application(&mut self, subdomain: &str, environments: &[&str]) -> Vec<EnvironmentId> {
        let application_id = ApplicationId::new();
        self.rows.applications.push(ApplicationRow {
            id: application_id,
            subdomain: subdomain.into(),
        });
        let row = |slug: &&str| EnvironmentRow {
            id: EnvironmentId::new(),
            application_id,
            slug: (*slug).into(),
            current_deployment_id: None,
            target_deployment_id: None,
            target_weight: None,
            public_port: None,
        };
        let rows: Vec<_> = environments.iter().map(row).collect();
        let ids = rows.iter().map(|row| row.id).collect();
        self.rows.environments.extend(rows);
        ids
    }

    fn deployment(&mut self, environment_id: EnvironmentId, label: &str, tasks: usize) -> DeploymentId {
        let id = DeploymentId::new();
        self.rows.deployments.push(DeploymentRow {
            id,
            environment_id,
            version: self.rows.deployments.len() as i32 + 1,
            preview_label: label.into(),
            status: DeploymentStatus::Succeeded,
            reason: None,
            replicas: 1,
            cold_start_enabled: true,
            asleep: false,
            http2: false,
            affinity: false,
            job: false,
            raw: false,
        });
        let task = |port| TaskRow {
            id: TaskId::new(),
            deployment_id: id,
            address: "127.0.0.1".into(),
            port,
            node_id: None,
        };
        self.rows.tasks.extend((0..tasks as u16).map(task));
        id
    }

    fn environment(&mut self, id: EnvironmentId) -> &mut EnvironmentRow {
        self.rows
            .environments
            .iter_mut()
            .find(|row| row.id == id)
            .expect("made above")
    }

    fn row(&mut self, id: DeploymentId) -> &mut DeploymentRow {
        self.rows
            .deployments
            .iter_mut()
            .find(|row| row.id == id)
            .expect("made above")
    }

    fn route(&mut self, domain: &str, environment_id: EnvironmentId, deployment_id: Option<DeploymentId>) {
        self.rows.routes.push(RouteRow {
            domain: domain.into(),
            environment_id,
            deployment_id,
        });
    }

    fn table(&self) -> Table {
        Table::build(self.rows.clone(), DOMAIN, &mut self.ledger.open())
    }
}

fn leads_to(table: &Table, host: &str) -> Option<DeploymentId> {
    table.resolve(host)?.deployment(0).map(|deployment| deployment.id)
}

#[test]
fn visitors_come_back_to_the_versions_that_serve_and_want_them() {
    let mut world = World::new();
    let ids = world.application("shop-acme", &["production"]);
    let [current, target] = ["one", "two"].map(|label| world.deployment(ids[0], label, 1));
    world.environment(ids[0]).current_deployment_id = Some(current);
    world.environment(ids[0]).target_deployment_id = Some(target);
    let affine = |world: &World| -> Vec<DeploymentId> {
        let table = world.table();
        let route = table.resolve("shop-acme.zectre.localhost").expect("known");
        route.affine().map(|deployment| deployment.id).collect()
    };
    assert!(affine(&world).is_empty());
    world.row(current).affinity = true;
    world.row(target).affinity = true;
    // A target that has no share of the traffic has no visitors.
    assert_eq!(affine(&world), [current]);
    world.environment(ids[0]).target_weight = Some(10);
    assert_eq!(affine(&world), [current, target]);
}

#[test]
fn the_first_of_the_four_rules_wins() {
    let mut world = World::new();
    let ids = world.application("shop-acme", &["production", "development"]);
    let old = world.deployment(ids[0], "shop-acme-00000001", 1);
    let current = world.deployment(ids[0], "shop-acme-00000002", 1);
    world.environment(ids[0]).current_deployment_id = Some(current);
    world.route("shop.example", ids[0], None);
    world.route("pinned.example", ids[0], Some(old));
    // One domain with both kinds of route: the pinned one is first.
    world.route("both.example", ids[0], None);
    world.route("both.example", ids[0], Some(old));
    // A route that looks like a preview label, or like a subdomain.
    world.route("shop-acme-00000001.zectre.localhost", ids[0], None);
    world.route("shop-acme.zectre.localhost", ids[0], Some(old));
    let table = world.table();
    assert_eq!(leads_to(&table, "shop-acme-00000001.zectre.localhost"), Some(old));
    assert_eq!(leads_to(&table, "pinned.example"), Some(old));
    assert_eq!(leads_to(&table, "both.example"), Some(old));
    assert_eq!(leads_to(&table, "shop.example"), Some(current));
    assert_eq!(leads_to(&table, "shop-acme.zectre.localhost"), Some(old));
    for unknown in [
        "shop-acme.example",
        "x.shop.example",
        "zectre.localhost",
        "a.shop-acme.zectre.localhost",
    ] {
        assert!(table.resolve(unknown).is_none(), "{unknown}");
    }
}

#[test]
fn a_subdomain_leads_to_production_once_something_serves_there() {
    let mut world = World::new();
    let ids = world.application("shop-acme", &["development", "production", "staging"]);
    let host = "shop-acme.zectre.localhost";
    assert!(
        world
            .table()
            .resolve(host)
            .is_some_and(|route| route.deployment(0).is_none())
    );
    let staging = world.deployment(ids[2], "c", 1);
    world.environment(ids[2]).current_deployment_id = Some(staging);
    assert_eq!(leads_to(&world.table(), host), None);
    let failed = world.deployment(ids[1], "p", 0);
    world.row(failed).status = DeploymentStatus::Failed;
    assert_eq!(leads_to(&world.table(), host), Some(failed));
    let development = world.deployment(ids[0], "d", 1);
    world.environment(ids[0]).current_deployment_id = Some(development);
    assert_eq!(leads_to(&world.table(), host), Some(development));
    let production = world.deployment(ids[1], "p2", 1);
    world.environment(ids[1]).current_deployment_id = Some(production);
    assert_eq!(leads_to(&world.table(), host), Some(production));
}

#[test]
fn the_first_deployment_serves_as_soon_as_it_has_a_routed_task() {
    let mut world = World::new();
    let ids = world.application("a-b", &["development"]);
    let first = world.deployment(ids[0], "first", 1);
    world.row(first).status = DeploymentStatus::Running;
    world.environment(ids[0]).target_deployment_id = Some(first);
    assert_eq!(leads_to(&world.table(), "a-b.zectre.localhost"), Some(first));
}

#[test]
fn a_side_without_replicas_lets_the_other_one_answer_only_while_traffic_is_shared() {
    let mut world = World::new();
    let ids = world.application("a-b", &["production"]);
    let (current, target) = (world.deployment(ids[0], "c", 0), world.deployment(ids[0], "t", 1));
    world.environment(ids[0]).current_deployment_id = Some(current);
    world.environment(ids[0]).target_deployment_id = Some(target);
    // Not shared: the target has not been let in, whatever it runs.
    assert_eq!(leads_to(&world.table(), "a-b.zectre.localhost"), Some(current));
    world.environment(ids[0]).target_weight = Some(1);
    let table = world.table();
    let chosen = table
        .resolve("a-b.zectre.localhost")
        .and_then(|route| route.deployment(99 << 32));
    assert_eq!(chosen.map(|deployment| deployment.id), Some(target));
}

#[test]
fn what_becomes_of_a_request_without_replicas_follows_from_the_state() {
    let mut world = World::new();
    let ids = world.application("a-b", &["production"]);
    let (current, old) = (world.deployment(ids[0], "c", 0), world.deployment(ids[0], "o", 0));
    world.environment(ids[0]).current_deployment_id = Some(current);
    let idle = |world: &World, id| world.table().deployment(id).expect("known").idle();
    assert_eq!(idle(&world, current), Idle::Await);
    assert_eq!(
        idle(&world, old),
        Idle::Wake,
        "a superseded one wakes by its preview label"
    );
    world.row(current).asleep = true;
    assert_eq!(idle(&world, current), Idle::Wake);
    world.row(current).cold_start_enabled = false;
    assert_eq!(idle(&world, current), Idle::Asleep);
    world.row(current).job = true;
    assert_eq!(idle(&world, current), Idle::Job);
    world.row(current).job = false;
    for (status, expected) in [
        (DeploymentStatus::Pending, Idle::Pending),
        (DeploymentStatus::Running, Idle::Await),
        (DeploymentStatus::Failed, Idle::Failed),
        (DeploymentStatus::Cancelled, Idle::Failed),
    ] {
        world.row(current).status = status;
        assert_eq!(idle(&world, current), expected);
    }
}

#[test]
fn a_version_with_no_replicas_wanted_is_awake_while_a_task_of_it_runs() {
    let mut world = World::new();
    let ids = world.application("a-b", &["production"]);
    let current = world.deployment(ids[0], "c", 0);
    world.environment(ids[0]).current_deployment_id = Some(current);
    world.row(current).replicas = 0;
    let seen = |world: &World| {
        let table = world.table();
        let deployment = table.deployment(current).expect("known");
        (deployment.is_asleep(), deployment.idle())
    };
    assert_eq!(seen(&world), (true, Idle::Wake));
    world.row(current).cold_start_enabled = false;
    assert_eq!(seen(&world), (true, Idle::Asleep));
    world.row(current).cold_start_enabled = true;
    let task = TaskId::new();
    world.rows.tasks.push(TaskRow {
        id: task,
        deployment_id: current,
        address: "127.0.0.1".into(),
        port: 1,
        node_id: None,
    });
    // And once the task has gone, a request wakes it again.
    assert_eq!(seen(&world), (false, Idle::Wake));
    // What failed does not sleep: nothing would wake it.
    world.rows.tasks.clear();
    world.row(current).status = DeploymentStatus::Failed;
    assert_eq!(seen(&world), (false, Idle::Failed));
}

proptest! {
    #[test]
    fn the_share_of_the_target_is_its_weight(weight in 0_i16..=100) {
        let mut world = World::new();
        let ids = world.application("a-b", &["production"]);
        let (current, target) = (world.deployment(ids[0], "c", 1), world.deployment(ids[0], "t", 1));
        world.environment(ids[0]).current_deployment_id = Some(current);
        world.environment(ids[0]).target_deployment_id = Some(target);
        world.environment(ids[0]).target_weight = Some(weight);
        let table = world.table();
        let route = table.resolve("a-b.zectre.localhost").expect("known");
        // One roll of each hundredth.
        let given = (0_u64..100).filter(|roll| route.deployment(roll << 32).is_some_and(|d| d.id == target)).count();
        prop_assert_eq!(given, weight as usize);
    }

    #[test]
    fn resolving_never_panics_and_depends_on_the_host_alone(host in "[a-z0-9.-]{0,80}", roll in any::<u64>()) {
        let mut world = World::new();
        let ids = world.application("a-b", &["production"]);
        let only = world.deployment(ids[0], "a-b-1", 1);
        world.environment(ids[0]).current_deployment_id = Some(only);
        world.route("c.example", ids[0], None);
        let table = world.table();
        let found = table.resolve(&host).and_then(|route| route.deployment(roll)).map(|deployment| deployment.id);
        let known = ["a-b.zectre.localhost", "a-b-1.zectre.localhost", "c.example"].contains(&host.as_str());
        prop_assert_eq!(found, known.then_some(only));
    }
}
