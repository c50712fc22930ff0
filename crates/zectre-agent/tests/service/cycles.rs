//! Tasks start and stop over and over on few ports, and never meet another's.

use crate::{
    agent::{Agent, ask},
    world::World,
};
use futures_util::{StreamExt, stream};
use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};
use zectre_common::{
    state::TaskState,
    wire::agent::{Action, ActionKind},
};

/// How many starts and stops, unless `ZECTRE_CYCLES` says otherwise: what takes half a minute on two cores. Ten
/// thousand take some minutes, longer than the runner lets a test live:
/// `cargo test -p zectre-agent --test service cycles` with `ZECTRE_CYCLES=10000`.
const CYCLES: u32 = 1_000;
/// At once.
const SLOTS: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn starts_and_stops_never_collide() {
    let cycles = std::env::var("ZECTRE_CYCLES").map_or(CYCLES, |text| text.parse().expect("a number"));
    let world = World::new().await;
    let _agent = Agent::start(&world);
    world.node().await;
    // Few ports, so that each is used again at once.
    let free: Mutex<VecDeque<u16>> = Mutex::new((0..SLOTS).map(|_| world.port()).collect());
    let order = world.guest("serve");
    let done = AtomicU32::new(0);
    stream::iter(0..cycles)
        .for_each_concurrent(SLOTS, async |_| {
            let port = free
                .lock()
                .expect("not poisoned")
                .pop_front()
                .expect("a port a slot");
            let mut order = order.clone();
            order.port = port;
            let task = world.start(order).await;
            world.reported(task, TaskState::Running).await;
            assert_eq!(ask(port, "/").await, Some(task.to_string()), "its own answer");
            world.stop(task, 5_000).await;
            world.reported(task, TaskState::Stopped).await;
            let forget = Action {
                task_id: task,
                generation: 2,
                kind: ActionKind::Forget,
            };
            world.send(1, vec![forget]).await.expect("accepted");
            world.seen().reports.retain(|report| report.task_id != task);
            free.lock().expect("not poisoned").push_back(port);
            done.fetch_add(1, Ordering::Relaxed);
        })
        .await;
    assert_eq!(done.load(Ordering::Relaxed), cycles);
}
