//! Who is asked for a wake: the scheduler that leads, and the API where it has no word on it. Listeners of the test's own play both.

use crate::{
    origin::{Body, Origin, text},
    wake::{api, asleep, awake},
    world::{SOON, World},
};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::sync::Semaphore;
use zectre_common::wire::{
    problem::Problem,
    scheduler::{SUPERSEDED, WakeRequest},
};
use zectre_service::{
    auth,
    key::ServiceKey,
    token::{self, name},
};
use zectre_testkit::wait_until;

/// What the scheduler says: that a task is ready, or a problem.
type Word = Option<(StatusCode, &'static str)>;

async fn scheduler(key: ServiceKey, task: SocketAddr, word: Arc<Mutex<Word>>) -> Origin {
    Origin::new(move |request| {
        let (key, word) = (key.clone(), *word.lock().expect("whole"));
        async move {
            let token = auth::bearer(request.headers()).expect("a token").to_owned();
            token::verify_service(&key, &token, name::SCHEDULER, &[name::PROXY])
                .expect("from the proxy, for the scheduler");
            assert_eq!(request.uri().path(), "/api/v1/scheduler/wake");
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            let asked: WakeRequest = serde_json::from_slice(&body).expect("a wake");
            assert!(asked.unless_superseded && asked.wait_ms > 1_000, "{asked:?}");
            word.map_or_else(|| awake(task, None), problem)
        }
    })
    .await
}

fn problem((status, code): (StatusCode, &str)) -> Response<Body> {
    let problem = Problem::new(status, code, "as the test says");
    let mut response = text(serde_json::to_vec(&problem).expect("JSON"));
    *response.status_mut() = status;
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_asked_and_the_api_where_it_has_no_word_on_it() {
    let mut world = World::new().await;
    let origin = Origin::saying("awake").await;
    let gate = Arc::new(Semaphore::new(1_000));
    let api = api(world.key.clone(), origin.address, gate).await;
    let word = Arc::new(Mutex::new(None));
    let leader = scheduler(world.key.clone(), origin.address, Arc::clone(&word)).await;
    world.configure(&format!("[api]\npublic_url = \"http://{}\"", api.address));
    asleep(&world, "sleeper").await;
    let elected = |address: SocketAddr| {
        let update =
            sqlx::query("UPDATE scheduler_leader SET address = $1").bind(format!("http://{address}"));
        update.execute(&world.pool)
    };
    elected(leader.address).await.expect("updated");
    let proxy = world.start().await;
    let wake = async || {
        world.publish().await;
        let got = proxy.get("sleeper-default").await;
        let code = (got.status != StatusCode::OK).then(|| got.problem().code);
        (got.status, code)
    };
    let served = (StatusCode::OK, None);
    wait_until(SOON, "the proxy knows who leads", || async {
        assert_eq!(wake().await, served);
        (leader.requests() == 1).then_some(())
    })
    .await;
    let by_api = api.requests();
    assert_eq!(wake().await, served);
    assert_eq!((leader.requests(), api.requests()), (2, by_api), "no detour");

    // Its word on the deployment is the last one.
    let say = |status, code| *word.lock().expect("whole") = Some((status, code));
    say(StatusCode::SERVICE_UNAVAILABLE, "NO_CAPACITY");
    let refused = (StatusCode::SERVICE_UNAVAILABLE, Some("NO_CAPACITY".to_owned()));
    assert_eq!(wake().await, refused);
    assert_eq!((leader.requests(), api.requests()), (3, by_api));

    // These are none.
    for (count, (status, code)) in [
        (StatusCode::CONFLICT, SUPERSEDED),
        (StatusCode::SERVICE_UNAVAILABLE, "NOT_LEADER"),
        (StatusCode::FORBIDDEN, "FORBIDDEN"),
        (StatusCode::UNPROCESSABLE_ENTITY, "INVALID_BODY"),
    ]
    .into_iter()
    .enumerate()
    {
        say(status, code);
        assert_eq!(wake().await, served, "{code}");
        assert_eq!(
            (leader.requests(), api.requests()),
            (4 + count, by_api + 1 + count),
            "{code}"
        );
    }

    // One that is gone is not waited for, and its successor is asked at once.
    let by_api = api.requests();
    drop(leader);
    for count in 1..=2 {
        assert_eq!(wake().await, served);
        assert_eq!(api.requests(), by_api + count);
    }
    *word.lock().expect("whole") = None;
    let successor = scheduler(world.key.clone(), origin.address, Arc::clone(&word)).await;
    elected(successor.address).await.expect("updated");
    wait_until(SOON, "the proxy knows who leads now", || async {
        assert_eq!(wake().await, served);
        (successor.requests() == 1).then_some(())
    })
    .await;
    proxy.stop().await;
}
