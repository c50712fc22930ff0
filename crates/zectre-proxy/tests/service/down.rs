//! Awake, and nothing of it serves: who asks is told at once where nothing is on its way, and waits where something is.

use crate::{
    client::Got,
    origin::{Origin, text},
    wake::awake,
    world::World,
};
use http::StatusCode;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use zectre_common::wire::problem::Problem;

/// For how long a replacement is waited for.
const WAIT: Duration = Duration::from_millis(1_500);

/// What the scheduler says of such a deployment.
#[derive(Clone)]
enum Word {
    Refused(&'static str),
    Serves(SocketAddr),
}

/// What visitors of an application without a task are told, one after the other, where that is what is said of it; and how often it
/// was asked for.
async fn visits(word: Word, count: usize) -> (Vec<Got>, usize) {
    let mut world = World::new().await;
    let api = Origin::new(move |_| {
        let word = word.clone();
        async move {
            let code = match word {
                Word::Serves(address) => return awake(address, None),
                Word::Refused(code) => code,
            };
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, "its last 3 tasks failed");
            let mut response = text(serde_json::to_vec(&problem).expect("JSON"));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
    })
    .await;
    world.configure(&format!(
        "[api]\npublic_url = \"http://{}\"\n[proxy]\nwake_timeout_ms = {}",
        api.address,
        WAIT.as_millis()
    ));
    world.app("shop").await;
    let proxy = world.start().await;
    let mut told = Vec::new();
    for _ in 0..count {
        told.push(proxy.get("shop-default").await);
    }
    let metrics = crate::client::metrics(proxy.admin).await;
    assert!(
        metrics.contains("zectre_proxy_wakes_total 0"),
        "nothing slept: {metrics}"
    );
    proxy.stop().await;
    (told, api.requests())
}

#[tokio::test]
async fn who_asks_in_the_pause_of_a_crash_loop_is_told_so_at_once() {
    let began = Instant::now();
    let (told, asked) = visits(Word::Refused("CRASH_LOOP"), 50).await;
    for got in told {
        assert_eq!(
            (got.status, got.problem().code.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "CRASH_LOOP")
        );
        assert_eq!(got.header("retry-after"), "5");
        assert!(got.header("x-error-detail").contains("it does not keep running"));
    }
    // Four times a second, and never for each.
    let most = 2 + began.elapsed().as_millis() as usize / 250;
    assert!((1..=most).contains(&asked), "{asked} of at most {most}");
}

#[tokio::test]
async fn who_asks_where_there_is_no_room_waits_for_it_and_is_told_so() {
    let began = Instant::now();
    let (told, asked) = visits(Word::Refused("NO_CAPACITY"), 1).await;
    assert_eq!(told[0].problem().code, "NO_CAPACITY");
    assert_eq!(asked, 1, "its table tells of room");
    assert!(began.elapsed() >= WAIT, "a node may come back");
}

#[tokio::test]
async fn who_asks_while_nobody_can_say_waits_for_a_replacement() {
    let (told, _) = visits(Word::Refused("DATABASE_UNAVAILABLE"), 1).await;
    assert_eq!(told[0].problem().code, "NO_HEALTHY_REPLICA");
}

#[tokio::test]
async fn who_asks_is_served_by_a_task_that_the_table_does_not_know_of_yet() {
    let origin = Origin::saying("back").await;
    let (told, _) = visits(Word::Serves(origin.address), 1).await;
    assert_eq!((told[0].status, told[0].body.as_str()), (StatusCode::OK, "back"));
}
