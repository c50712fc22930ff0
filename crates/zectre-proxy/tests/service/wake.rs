//! Asleep until someone comes. A listener of the test's own plays the API's wake endpoint.

use crate::{
    client::{full, routes},
    origin::{Body, Origin, nobody, text},
    world::{App, SOON, World},
};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::timeout,
};
use zectre_common::{
    id::TaskId,
    wire::{
        deployment::{Backend, WakeResponse},
        problem::Problem,
        task::Phases,
    },
};
use zectre_service::{auth, key::ServiceKey, token};
use zectre_testkit::{free_port, wait_until};

/// Wakes to `address`, once `gate` has a permit; refuses callers that are not the proxy.
pub(crate) async fn api(key: ServiceKey, address: SocketAddr, gate: Arc<Semaphore>) -> Origin {
    Origin::new(move |request| {
        let (key, gate) = (key.clone(), Arc::clone(&gate));
        async move {
            let token = auth::bearer(request.headers()).expect("a token").to_owned();
            token::verify_service(&key, &token, "zectre-api", &["zectre-proxy"])
                .expect("from the proxy, for the API");
            assert!(request.uri().path().ends_with("/wake") && request.uri().query() == Some("wait=ready"));
            gate.acquire().await.expect("open").forget();
            awake(address, None)
        }
    })
    .await
}

/// A wake that went well, at the routing epoch that a scheduler would know.
pub(crate) fn awake(address: SocketAddr, routing_epoch: Option<u64>) -> Response<Body> {
    let backend = Backend {
        node_id: None,
        task_id: TaskId::new(),
        address: address.ip().to_string(),
        port: address.port(),
    };
    let phases = Phases {
        queue_us: None,
        place_us: Some(1_000),
        fetch_us: None,
        start_us: Some(2_000),
        ready_us: Some(3_000),
    };
    let answer = WakeResponse {
        backends: vec![backend],
        phases,
        routing_epoch,
    };
    text(serde_json::to_vec(&answer).expect("JSON"))
}

pub(crate) async fn asleep(world: &World, name: &str) -> App {
    let app = world.app(name).await;
    world.sleep(app.deployment).await;
    app
}

pub(crate) async fn held(admin: SocketAddr, key: &ServiceKey, app: App) -> u64 {
    let routes = routes(admin, key).await;
    routes["deployments"][app.deployment.to_string()]["held"]
        .as_u64()
        .expect("a number")
}

/// Its task is gone when it is reached for, and by then another version serves, which sleeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_woken_in_vain_wakes_what_serves_instead() {
    let mut world = World::new().await;
    let origin = Origin::saying("awake").await;
    let (gone, there) = (nobody(), origin.address);
    let (application, environment) = world.environment("sleeper", "production").await;
    let [first, second] = ["first", "second"].map(|label| world.deployment(application, environment, label));
    let (first, second) = (first.await, second.await);
    for deployment in [first, second] {
        world.sleep(deployment).await;
    }
    world.make_current(environment, first).await;
    let woken = Arc::new(Notify::new());
    let tells = Arc::clone(&woken);
    let api = Origin::new(move |request| {
        let (tells, is_first) = (
            Arc::clone(&tells),
            request.uri().path().contains(&first.to_string()),
        );
        async move {
            tells.notify_one();
            awake(if is_first { gone } else { there }, None)
        }
    })
    .await;
    world.configure(&format!("[api]\npublic_url = \"http://{}\"", api.address));
    let proxy = Arc::new(world.start().await);
    let asking = Arc::clone(&proxy);
    let mut request = JoinSet::new();
    request.spawn(async move { asking.get("sleeper-default").await });
    timeout(SOON, woken.notified())
        .await
        .expect("the first one is woken");
    world.make_current(environment, second).await;
    world.publish().await;
    let got = timeout(SOON, request.join_next()).await.expect("in time");
    let got = got.expect("one").expect("an answer");
    assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "awake"));
    assert_eq!(api.requests(), 2);
    Arc::into_inner(proxy).expect("ours").stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_first_requests_are_one_wake() {
    let mut world = World::new().await;
    let origin = Origin::saying("awake").await;
    let gate = Arc::new(Semaphore::new(0));
    let api = api(world.key.clone(), origin.address, Arc::clone(&gate)).await;
    world.configure(&format!("[api]\npublic_url = \"http://{}\"", api.address));
    let app = asleep(&world, "sleeper").await;
    let proxy = Arc::new(world.start().await);
    let mut clients = JoinSet::new();
    for _ in 0..1_000 {
        let proxy = Arc::clone(&proxy);
        clients.spawn(async move { proxy.get("sleeper-default").await });
    }
    wait_until(SOON, "all are held", || async {
        (held(proxy.admin, &world.key, app).await == 1_000).then_some(())
    })
    .await;
    gate.add_permits(1);
    while let Some(got) = clients.join_next().await {
        let got = got.expect("it did not panic");
        assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "awake"));
        let timing = got.header("server-timing");
        for phase in [
            "queue;dur=",
            "place;dur=1.000",
            "start;dur=2.000",
            "ready;dur=3.000",
            "first-byte;dur=",
        ] {
            assert!(timing.contains(phase), "{timing}");
        }
    }
    assert_eq!((api.requests(), origin.requests()), (1, 1_000));
    // What the wake said holds until a table says otherwise.
    assert_eq!(proxy.get("sleeper-default").await.body, "awake");
    world.publish().await;
    gate.add_permits(1);
    assert_eq!(proxy.get("sleeper-default").await.body, "awake");
    assert_eq!(api.requests(), 2, "the table says asleep: it is woken again");
    wait_until(SOON, "activity is told", || async {
        world.in_flight(app.deployment).await
    })
    .await;
    drop(clients);
    Arc::into_inner(proxy).expect("the clients are gone").stop().await;
}

#[tokio::test]
async fn a_wake_that_fails_says_why_and_when_to_come_back() {
    let mut world = World::new().await;
    let api = Origin::new(|_| async {
        let problem = Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "NO_CAPACITY",
            "no node has 4 CPUs free",
        );
        let mut response = text(serde_json::to_vec(&problem).expect("JSON"));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    })
    .await;
    world.configure(&format!(
        "[api]\npublic_url = \"http://{}/\"\n[proxy]\nwake_timeout_ms = 1500",
        api.address
    ));
    let app = asleep(&world, "big").await;
    let proxy = world.start().await;
    let got = proxy.get("big-default").await;
    let problem = got.problem();
    assert_eq!(
        (got.status, problem.code.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "NO_CAPACITY")
    );
    assert_eq!(got.header("retry-after"), "5");
    // How large the platform's nodes are is no visitor's business.
    assert!(got.header("x-error-detail").contains("there is no room for it"));
    assert!(!got.header("x-error-detail").contains("4 CPUs"));
    drop(api);
    let got = proxy.get("big-default").await;
    assert_eq!(
        (got.status, got.problem().code.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "WAKE_UNAVAILABLE")
    );
    sqlx::query!(
        "UPDATE deployments SET cold_start_enabled = false WHERE id = $1",
        app.deployment as _
    )
    .execute(&world.pool)
    .await
    .expect("updated");
    world.publish().await;
    assert_eq!(proxy.get("big-default").await.problem().code, "ASLEEP");
    proxy.stop().await;
}

/// The API is started again, say, or its database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_while_nobody_can_wake_is_served_as_soon_as_somebody_can() {
    let mut world = World::new().await;
    let origin = Origin::saying("awake").await;
    let address = origin.address;
    let (asked, port) = (Arc::new(AtomicU64::new(0)), free_port());
    world.configure(&format!("[api]\npublic_url = \"http://127.0.0.1:{port}\""));
    asleep(&world, "patient").await;
    let proxy = Arc::new(world.start().await);
    let mut request = JoinSet::new();
    let asking = Arc::clone(&proxy);
    request.spawn(async move { asking.get("patient-default").await });
    let early = timeout(std::time::Duration::from_millis(300), request.join_next()).await;
    assert!(early.is_err(), "nobody listens there yet");
    let asks = Arc::clone(&asked);
    let _api = Origin::at(([127, 0, 0, 1], port).into(), move |_| {
        let asks = Arc::clone(&asks);
        async move {
            if asks.fetch_add(1, SeqCst) == 0 {
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "DATABASE_UNAVAILABLE", "away");
                let mut response = text(serde_json::to_vec(&problem).expect("JSON"));
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                return response;
            }
            awake(address, None)
        }
    })
    .await;
    let got = timeout(SOON, request.join_next()).await.expect("in time");
    let got = got.expect("one").expect("an answer");
    assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "awake"));
    assert_eq!(asked.load(SeqCst), 2);
    Arc::into_inner(proxy).expect("ours").stop().await;
}

#[tokio::test]
async fn places_to_wait_are_bounded_and_freed_by_clients_that_leave() {
    let mut world = World::new().await;
    let origin = Origin::saying("awake").await;
    let gate = Arc::new(Semaphore::new(0));
    let api = api(world.key.clone(), origin.address, Arc::clone(&gate)).await;
    world.configure(&format!(
        "[api]\npublic_url = \"http://{}\"\n[proxy]\nheld_requests_max = 2",
        api.address
    ));
    let app = asleep(&world, "small").await;
    let proxy = world.start().await;
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", full("small-default"));
    let mut waiting = Vec::new();
    for count in 1..=2 {
        let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        waiting.push(stream);
        wait_until(SOON, "it is held", || async {
            (held(proxy.admin, &world.key, app).await == count).then_some(())
        })
        .await;
    }
    let got = proxy.get("small-default").await;
    assert_eq!(
        (got.status, got.problem().code.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "TOO_MANY_HELD")
    );
    drop(waiting);
    wait_until(SOON, "the places are free", || async {
        (held(proxy.admin, &world.key, app).await == 0).then_some(())
    })
    .await;
    gate.add_permits(1);
    assert_eq!(proxy.get("small-default").await.body, "awake");
    assert_eq!(api.requests(), 1, "the call outlived those who asked first");
    proxy.stop().await;
}

#[tokio::test]
async fn who_leaves_with_its_body_on_the_way_frees_its_place_too_and_who_stays_sends_all_of_it() {
    let mut world = World::new().await;
    let origin = Origin::new(async |request| {
        let whole = request.into_body().collect().await;
        text(whole.map_or(0, |body| body.to_bytes().len()).to_string())
    })
    .await;
    let gate = Arc::new(Semaphore::new(0));
    let api = api(world.key.clone(), origin.address, Arc::clone(&gate)).await;
    // Longer than anybody waits here for a place to be free.
    world.configure(&format!(
        "[api]\npublic_url = \"http://{}\"\n[proxy]\nwake_timeout_ms = 50000",
        api.address
    ));
    let app = asleep(&world, "upload").await;
    let proxy = world.start().await;
    let are_held = async |count: u64| {
        wait_until(SOON / 2, "so many are held", || async {
            (held(proxy.admin, &world.key, app).await == count).then_some(())
        })
        .await;
    };
    let begin = async |body: &str| {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
            full("upload-default")
        );
        let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
        stream
            .write_all((head + body).as_bytes())
            .await
            .expect("it reads");
        are_held(1).await;
        stream
    };
    for body in [
        "Content-Length: 100000\r\n\r\na part",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    ] {
        drop(begin(body).await);
        are_held(0).await;
    }
    // More than is read before there is a task.
    let bytes = 300_000;
    let mut lengthy = begin(&format!("Content-Length: {bytes}\r\n\r\n")).await;
    let mut answer = String::new();
    let sent = vec![b'x'; bytes];
    let (mut read, mut write) = lengthy.split();
    let upload = async { write.write_all(&sent).await.expect("it reads") };
    let wake = async { gate.add_permits(1) };
    let reading = async { read.read_to_string(&mut answer).await.expect("text") };
    tokio::join!(upload, wake, reading);
    assert!(answer.ends_with("300000"), "{answer}");
    let pieces = "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    world.publish().await;
    let mut chunked = begin(&format!("Transfer-Encoding: chunked\r\n\r\n{pieces}")).await;
    gate.add_permits(1);
    answer.clear();
    chunked.read_to_string(&mut answer).await.expect("text");
    assert!(answer.ends_with('5'), "{answer}");
    assert_eq!(origin.requests(), 2, "nothing of those who left came here");
    proxy.stop().await;
}

#[tokio::test]
async fn a_wake_in_the_table_is_as_good_as_one_in_the_answer() {
    let mut world = World::new().await;
    let origin = Origin::saying("awake").await;
    let api = api(world.key.clone(), origin.address, Arc::new(Semaphore::new(0))).await;
    world.configure(&format!("[api]\npublic_url = \"http://{}\"", api.address));
    let app = asleep(&world, "table").await;
    let proxy = Arc::new(world.start().await);
    let waiting = Arc::clone(&proxy);
    let mut clients = JoinSet::new();
    clients.spawn(async move { waiting.get("table-default").await });
    wait_until(SOON, "the wake is asked for", || async {
        (api.requests() == 1).then_some(())
    })
    .await;
    world.task(app.deployment, origin.address).await;
    world.publish().await;
    let got = clients
        .join_next()
        .await
        .expect("one client")
        .expect("it did not panic");
    assert_eq!(got.body, "awake");
    drop(clients);
    Arc::into_inner(proxy).expect("the client is gone").stop().await;
}

/// A wake begins with a row that says that the deployment is awake. Where something else raises the epoch before its task is
/// ready, the table says so without a task: who waits for the call still gets what it answers, and so does who comes then.
#[tokio::test]
async fn a_table_that_says_awake_takes_nobody_from_the_wake_under_way() {
    let mut world = World::new().await;
    let origin = Origin::saying("awake").await;
    let gate = Arc::new(Semaphore::new(0));
    let api = api(world.key.clone(), origin.address, Arc::clone(&gate)).await;
    world.configure(&format!("[api]\npublic_url = \"http://{}\"", api.address));
    let app = asleep(&world, "early").await;
    let proxy = Arc::new(world.start().await);
    let ask = |clients: &mut JoinSet<_>| {
        let proxy = Arc::clone(&proxy);
        clients.spawn(async move { proxy.get("early-default").await });
    };
    let mut clients = JoinSet::new();
    ask(&mut clients);
    wait_until(SOON, "the wake is asked for", || async {
        (api.requests() == 1).then_some(())
    })
    .await;
    let woken = sqlx::query("UPDATE deployments SET asleep = false WHERE id = $1");
    woken
        .bind(app.deployment)
        .execute(&world.pool)
        .await
        .expect("updated");
    world.publish().await;
    wait_until(SOON, "the table says awake", || async {
        let routes = routes(proxy.admin, &world.key).await;
        (routes["deployments"][app.deployment.to_string()]["asleep"] == false).then_some(())
    })
    .await;
    ask(&mut clients);
    wait_until(SOON, "both wait", || async {
        (held(proxy.admin, &world.key, app).await == 2).then_some(())
    })
    .await;
    // No table will tell of the task.
    gate.add_permits(1);
    while let Some(got) = clients.join_next().await {
        assert_eq!(got.expect("it did not panic").body, "awake");
    }
    assert_eq!(api.requests(), 1, "one call");
    Arc::into_inner(proxy).expect("the clients are gone").stop().await;
}

#[tokio::test]
async fn an_answer_older_than_the_table_is_asked_for_once_more() {
    let mut world = World::new().await;
    let (gone, origin) = (Origin::saying("gone").await, Origin::saying("awake").await);
    let (first, second) = (gone.address, origin.address);
    // The first answer was decided before everything that the table says.
    let epochs = Arc::new(AtomicU64::new(0));
    let api = Origin::new(move |_| {
        let epoch = epochs.fetch_add(u64::MAX, SeqCst);
        let answer = awake(if epoch == 0 { first } else { second }, Some(epoch));
        async { answer }
    })
    .await;
    world.configure(&format!("[api]\npublic_url = \"http://{}\"", api.address));
    asleep(&world, "late").await;
    let proxy = world.start().await;
    assert_eq!(proxy.get("late-default").await.body, "awake");
    assert_eq!((api.requests(), gone.requests()), (2, 0));
    proxy.stop().await;
}

#[tokio::test]
async fn a_browser_that_waits_long_is_shown_a_page_and_a_program_never() {
    let mut world = World::new().await;
    world.configure("[proxy]\nwaiting_page_after_ms = 50");
    let origin = Origin::saying("awake").await;
    let gate = Arc::new(Semaphore::new(0));
    let api = api(world.key.clone(), origin.address, Arc::clone(&gate)).await;
    let mut config = world.config();
    config.api.public_url = format!("http://{}", api.address);
    let app = asleep(&world, "page").await;
    let proxy = Arc::new(crate::world::Running::start(&config).await);
    let ask = |method: reqwest::Method, headers: &[(&'static str, &'static str)]| {
        let mut request = crate::client::client().request(method, proxy.url("/deep?link=1"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.header("host", full("page-default"))
    };
    let browser = [("accept", "text/html,*/*;q=0.8"), ("sec-fetch-mode", "navigate")];
    let page = crate::client::send(ask(reqwest::Method::GET, &browser)).await;
    assert_eq!(
        (page.status, page.header("retry-after")),
        (StatusCode::SERVICE_UNAVAILABLE, "2")
    );
    assert!(
        page.body.contains("http-equiv=\"refresh\" content=\"2\""),
        "{}",
        page.body
    );
    assert_eq!(page.header("cache-control"), "no-store");
    // None of these is somebody who looks at a page: they wait for the answer itself.
    let programs = [
        ask(reqwest::Method::GET, &[("accept", "*/*")]),
        ask(reqwest::Method::POST, &browser),
        ask(
            reqwest::Method::GET,
            &[("accept", "text/html"), ("sec-fetch-mode", "cors")],
        ),
    ];
    let mut waiting = JoinSet::new();
    for program in programs {
        waiting.spawn(crate::client::send(program));
    }
    wait_until(SOON, "they are held", || async {
        let routes = routes(proxy.admin, &world.key).await;
        (routes["deployments"][app.deployment.to_string()]["held"] == 3).then_some(())
    })
    .await;
    gate.add_permits(1);
    while let Some(got) = waiting.join_next().await {
        assert_eq!(got.expect("it did not panic").body, "awake");
    }
    assert_eq!(
        crate::client::send(ask(reqwest::Method::GET, &browser))
            .await
            .body,
        "awake"
    );
    assert_eq!(api.requests(), 1, "all of them are one wake");
    Arc::into_inner(proxy).expect("nobody else has it").stop().await;
}
