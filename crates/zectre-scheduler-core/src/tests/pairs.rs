//! Whatever two things people ask for in the middle of a rollout, one right after the other: the invariants
//! hold, and everything comes to rest.

use super::{
    chaos::{converged, promote_what_waits},
    world::{Program, World},
};
use crate::Deployment;
use zectre_common::{id::DeploymentId, state::OperationKind};

const STRATEGIES: &[&str] = &[
    r#""rolling""#,
    r#"{"type":"rolling","max_surge":0,"max_unavailable":1}"#,
    r#""blue_green""#,
    r#""recreate""#,
    r#"{"type":"canary","weight":34}"#,
    r#"{"type":"canary","weight":50,"auto_promote_secs":3}"#,
];

/// What is asked, and of the old deployment or of the new one.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Old(OperationKind),
    New(OperationKind),
    ScaleOld(u32),
    ScaleNew(u32),
    IdleNew(u32),
    ColdStartNew(bool),
    Deploy,
}

const ASKED: &[Asked] = &[
    Asked::New(OperationKind::Promote),
    Asked::New(OperationKind::Rollback),
    Asked::New(OperationKind::Cancel),
    Asked::New(OperationKind::Restart),
    Asked::New(OperationKind::Sleep),
    Asked::New(OperationKind::Wake),
    Asked::Old(OperationKind::Promote),
    Asked::Old(OperationKind::Rollback),
    Asked::Old(OperationKind::Restart),
    Asked::Old(OperationKind::Sleep),
    Asked::ScaleOld(1),
    Asked::ScaleOld(0),
    Asked::ScaleNew(4),
    Asked::ScaleNew(0),
    Asked::IdleNew(1),
    Asked::ColdStartNew(false),
    Asked::Deploy,
];

fn ask(world: &mut World, asked: Asked, old: DeploymentId, new: DeploymentId, json: &str) {
    match asked {
        Asked::Old(kind) => world.ask(kind, old),
        Asked::New(kind) => world.ask(kind, new),
        Asked::ScaleOld(replicas) => world.change(old, |d| d.replicas = replicas),
        Asked::ScaleNew(replicas) => world.change(new, |d| d.replicas = replicas),
        Asked::IdleNew(secs) => world.change(new, |d| d.idle_timeout_secs = secs),
        Asked::ColdStartNew(enabled) => world.change(new, |d| d.cold_start_enabled = enabled),
        Asked::Deploy => drop(world.deploy(json, Program::Serves)),
    }
}

#[test]
fn any_two_wishes_in_the_middle_of_a_rollout_come_to_rest() {
    for (turn, strategy) in STRATEGIES.iter().enumerate() {
        let json = format!(
            r#"{{"replicas":3,"strategy":{strategy},"idle_timeout_secs":25,"progress_deadline_secs":20}}"#
        );
        for (first_at, first) in ASKED.iter().enumerate() {
            for (second_at, second) in ASKED.iter().enumerate() {
                let mut world = World::new(3, 1);
                let old = world.deploy(&json, Program::Serves);
                world.calm(2);
                let new = world.deploy(&json, Program::Serves);
                // At different moments: before anything was told to anybody, or with some of it running.
                for _ in 0..(turn + first_at + second_at) % 3 {
                    world.calm_step(500);
                }
                ask(&mut world, *first, old, new, &json);
                if second_at % 2 == 0 {
                    world.deliver();
                }
                ask(&mut world, *second, old, new, &json);
                world.check_resync();
                world.calm(22);
                promote_what_waits(&mut world);
                world.calm(24);
                promote_what_waits(&mut world);
                world.calm(34);
                converged(&mut world);
            }
        }
    }
}

/// A change of how a deployment sleeps.
type SleepChange = fn(&mut Deployment);

/// What is changed, for how many seconds it may idle before that (0: for ever), and whether it sleeps a minute after its
/// rollout then.
const SLEEP_CHANGES: &[(SleepChange, u32, bool)] = &[
    (|d| d.idle_timeout_secs = 1, 300, true),
    (|d| d.idle_timeout_secs = 1, 0, true),
    (|d| d.idle_timeout_secs = 0, 1, false),
    (|d| d.cold_start_enabled = false, 1, false),
    (
        |d| (d.idle_timeout_secs, d.cold_start_enabled) = (1, true),
        300,
        true,
    ),
];

#[test]
fn how_a_deployment_sleeps_can_be_changed_in_the_middle_of_its_rollout() {
    for strategy in STRATEGIES {
        for (change, idle_secs, sleeps) in SLEEP_CHANGES {
            let json = |idle_secs: u32| {
                format!(r#"{{"replicas":3,"strategy":{strategy},"idle_timeout_secs":{idle_secs}}}"#)
            };
            let mut world = World::new(3, 1);
            let old = world.deploy(&json(300), Program::Serves);
            world.calm(2);
            let new = world.deploy(&json(*idle_secs), Program::Serves);
            world.calm_step(500);
            for id in [old, new] {
                world.change(id, change);
            }
            let is_asleep = |world: &World, id| world.cluster.deployment(id).is_some_and(|d| d.asleep);
            for step in 0.. {
                assert!(step < 60, "{strategy}: the rollout ends");
                if world.current() == Some(new) {
                    break;
                }
                assert!(
                    !is_asleep(&world, old) && !is_asleep(&world, new),
                    "{strategy}: neither sleeps before one has won"
                );
                if step == 20 {
                    promote_what_waits(&mut world);
                }
                world.calm_step(500);
            }
            world.calm(60);
            assert_eq!(is_asleep(&world, new), *sleeps, "{strategy} from {idle_secs} s");
            converged(&mut world);
        }
    }
}
