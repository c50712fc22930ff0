//! Who is asked for a wake: the scheduler that leads, and the API where it has no word on it. Listeners of the test's own play both.

use crate::{
    origin::{Body, Origin, text},
    wake::{api, asleep, awake},
    world::{Running, SOON, World},
};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};
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

/// The database says that it leads from now on.
async fn elect(world: &World, address: SocketAddr) {
    let update = sqlx::query("UPDATE scheduler_leader SET address = $1, epoch = epoch + 1");
    let elected = update.bind(format!("http://{address}")).execute(&world.pool);
    elected.await.expect("updated");
}

/// The machine of the leader has lost its power, say: it neither answers nor closes anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_leader_that_says_nothing_hears_of_its_successor() {
    let mut world = World::new().await;
    let origin = Origin::saying("awake").await;
    world.configure("[api]\npublic_url = \"http://127.0.0.1:1\"\n[proxy]\nwake_timeout_ms = 50000");
    asleep(&world, "sleeper").await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    elect(&world, silent.local_addr().expect("bound")).await;
    let proxy = world.start().await;
    world.publish().await;
    let served = async {
        // Until it is known that somebody leads nobody can be asked.
        wait_until(SOON, "it is served", || async {
            (proxy.get("sleeper-default").await.status == StatusCode::OK).then_some(())
        })
        .await;
    };
    let succeeded = async {
        let (call, _) = silent.accept().await.expect("the proxy asks it");
        let word = Arc::new(Mutex::new(None));
        let successor = scheduler(world.key.clone(), origin.address, word).await;
        elect(&world, successor.address).await;
        (call, successor)
    };
    let began = Instant::now();
    let ((), (_call, successor)) = tokio::join!(served, succeeded);
    assert_eq!(successor.requests(), 1);
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    proxy.stop().await;
}

/// A proxy that knows a leader, an API beside it, and a deployment that sleeps.
struct Scene {
    world: World,
    proxy: Running,
    api: Origin,
    leader: Option<Origin>,
    word: Arc<Mutex<Word>>,
    /// Where both wake to.
    origin: Origin,
}

/// What a request for what sleeps gets when it is served.
const SERVED: (StatusCode, Option<String>) = (StatusCode::OK, None);

impl Scene {
    async fn new() -> Self {
        let mut world = World::new().await;
        let origin = Origin::saying("awake").await;
        let gate = Arc::new(Semaphore::new(1_000));
        let api = api(world.key.clone(), origin.address, gate).await;
        world.configure(&format!("[api]\npublic_url = \"http://{}\"", api.address));
        asleep(&world, "sleeper").await;
        let proxy = world.start().await;
        let mut scene = Self {
            world,
            proxy,
            api,
            leader: None,
            word: Arc::default(),
            origin,
        };
        scene.elect_another().await;
        scene
    }

    /// Another one leads, and the proxy knows it.
    async fn elect_another(&mut self) {
        let (key, word) = (self.world.key.clone(), Arc::clone(&self.word));
        let leader = scheduler(key, self.origin.address, word).await;
        elect(&self.world, leader.address).await;
        self.leader = Some(leader);
        self.until_asked().await;
    }

    /// Waits until the leader was asked once more.
    async fn until_asked(&self) {
        let before = self.asked().0;
        wait_until(SOON, "the proxy knows who leads", || async {
            assert_eq!(self.wake().await, SERVED);
            (self.asked().0 == before + 1).then_some(())
        })
        .await;
    }

    fn say(&self, word: Word) {
        *self.word.lock().expect("whole") = word;
    }

    /// How often the leader and the API were asked.
    fn asked(&self) -> (usize, usize) {
        let leader = self.leader.as_ref().map_or(0, Origin::requests);
        (leader, self.api.requests())
    }

    /// Asks for what sleeps.
    async fn wake(&self) -> (StatusCode, Option<String>) {
        self.world.publish().await;
        let got = self.proxy.get("sleeper-default").await;
        let code = (got.status != StatusCode::OK).then(|| got.problem().code);
        (got.status, code)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_asked_and_the_api_where_it_has_no_word_on_it() {
    let scene = Scene::new().await;
    let (leader, api) = scene.asked();
    assert_eq!(scene.wake().await, SERVED);
    assert_eq!(scene.asked(), (leader + 1, api), "no detour");

    // Its word on the deployment is the last one.
    scene.say(Some((StatusCode::SERVICE_UNAVAILABLE, "NO_CAPACITY")));
    let refused = (StatusCode::SERVICE_UNAVAILABLE, Some("NO_CAPACITY".to_owned()));
    assert_eq!(scene.wake().await, refused);
    assert_eq!(scene.asked(), (leader + 2, api));

    // These are none.
    for (count, word) in [
        (StatusCode::CONFLICT, SUPERSEDED),
        (StatusCode::SERVICE_UNAVAILABLE, "NOT_LEADER"),
        (StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED"),
        (StatusCode::FORBIDDEN, "FORBIDDEN"),
        (StatusCode::UNPROCESSABLE_ENTITY, "INVALID_BODY"),
    ]
    .into_iter()
    .enumerate()
    {
        scene.say(Some(word));
        assert_eq!(scene.wake().await, SERVED, "{word:?}");
        assert_eq!(scene.asked(), (leader + 3 + count, api + 1 + count), "{word:?}");
    }
    scene.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_in_whose_place_another_answers_is_passed_over_until_it_is_elected_again() {
    let scene = Scene::new().await;
    scene.say(Some((StatusCode::SERVICE_UNAVAILABLE, "UNEXPECTED_ANSWER")));
    let (leader, api) = scene.asked();
    let silent = Instant::now();
    for count in 1..=2 {
        assert_eq!(scene.wake().await, SERVED);
        assert_eq!(scene.asked(), (leader + 1, api + count));
    }
    scene.say(None);
    elect(&scene.world, scene.leader.as_ref().expect("one leads").address).await;
    scene.until_asked().await;
    // As long as one is passed over that was not elected again.
    assert!(
        silent.elapsed() < Duration::from_secs(10),
        "{:?}",
        silent.elapsed()
    );
    scene.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_gone_is_not_waited_for_and_its_successor_is_asked_at_once() {
    let mut scene = Scene::new().await;
    scene.leader = None;
    let (_, api) = scene.asked();
    for count in 1..=2 {
        assert_eq!(scene.wake().await, SERVED);
        assert_eq!(scene.asked().1, api + count);
    }
    scene.elect_another().await;
    scene.proxy.stop().await;
}

/// While it was woken another version took its place, and the request was led there: nobody is left who wants it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_nobody_waits_for_any_more_is_not_woken_by_the_api() {
    let mut world = World::new().await;
    let origin = Origin::saying("awake").await;
    let api = api(world.key.clone(), origin.address, Arc::new(Semaphore::new(1_000))).await;
    world.configure(&format!("[api]\npublic_url = \"http://{}\"", api.address));
    let (application, environment) = world.environment("sleeper", "production").await;
    let first = world.deployment(application, environment, "first").await;
    let second = world.deployment(application, environment, "second").await;
    for deployment in [first, second] {
        world.sleep(deployment).await;
    }
    world.make_current(environment, first).await;
    asleep(&world, "other").await;
    let (asked, told) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (asks, tells, task) = (Arc::clone(&asked), Arc::clone(&told), origin.address);
    let leader = Origin::new(move |request| {
        let (asks, tells) = (Arc::clone(&asks), Arc::clone(&tells));
        async move {
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            let wake: WakeRequest = serde_json::from_slice(&body).expect("a wake");
            if wake.deployment_id != first {
                return awake(task, None);
            }
            asks.add_permits(1);
            tells.acquire().await.expect("open").forget();
            problem((StatusCode::CONFLICT, SUPERSEDED))
        }
    })
    .await;
    elect(&world, leader.address).await;
    let proxy = world.start().await;
    wait_until(SOON, "the proxy knows who leads", || async {
        world.publish().await;
        assert_eq!(proxy.get("other-default").await.status, StatusCode::OK);
        (leader.requests() == 1).then_some(())
    })
    .await;
    let by_api = api.requests();
    let led_elsewhere = async {
        asked.acquire().await.expect("open").forget();
        world.make_current(environment, second).await;
        world.publish().await;
    };
    let (got, ()) = tokio::join!(proxy.get("sleeper-default"), led_elsewhere);
    assert_eq!((got.status, leader.requests()), (StatusCode::OK, 3));
    told.add_permits(1);
    // By the time that others are served it would have been asked.
    assert_eq!(proxy.get("other-default").await.status, StatusCode::OK);
    proxy.stop().await;
    assert_eq!(api.requests(), by_api);
}

/// Who comes so much later than another has so much time left when the call for both is over.
const LATER: Duration = Duration::from_millis(300);

/// Which part of the platform has trouble, and with what, is no visitor's business.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_in_vain_is_told_that_nobody_answers_or_that_the_time_is_over() {
    let mut world = World::new().await;
    let is_mute = Arc::new(AtomicBool::new(false));
    let mute = Arc::clone(&is_mute);
    let api = Origin::new(move |_| {
        let is_mute = mute.load(SeqCst);
        async move {
            if is_mute {
                pending::<()>().await;
            }
            problem((StatusCode::SERVICE_UNAVAILABLE, "DATABASE_UNAVAILABLE"))
        }
    })
    .await;
    world.configure(&format!(
        "[api]\npublic_url = \"http://{}\"\n[proxy]\nwake_timeout_ms = 2000",
        api.address
    ));
    asleep(&world, "sleeper").await;
    let proxy = world.start().await;
    let told = async || proxy.get("sleeper-default").await.problem().code;
    assert_eq!(told().await, "WAKE_UNAVAILABLE");
    let asked = api.requests();
    assert!(asked > 1, "nobody had spoken about it");
    is_mute.store(true, SeqCst);
    // Who comes later has time left when the call has none.
    let later = async {
        wait_until(SOON, "the wake is asked for", || async {
            (api.requests() > asked).then_some(())
        })
        .await;
        sleep(LATER).await;
        told().await
    };
    let (first, second) = tokio::join!(told(), later);
    assert_eq!([first, second], ["WAKE_TIMEOUT"; 2]);
    proxy.stop().await;
}
