//! Whatever two things people ask for in the middle of a rollout, one right after the other: the invariants
//! hold, and everything comes to rest.

use super::{
    chaos::{converged, promote_what_waits},
    world::{Program, World},
};
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
    Asked::Deploy,
];

fn ask(world: &mut World, asked: Asked, old: DeploymentId, new: DeploymentId, json: &str) {
    match asked {
        Asked::Old(kind) => world.ask(kind, old),
        Asked::New(kind) => world.ask(kind, new),
        Asked::ScaleOld(replicas) => world.change(old, |d| d.replicas = replicas),
        Asked::ScaleNew(replicas) => world.change(new, |d| d.replicas = replicas),
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
