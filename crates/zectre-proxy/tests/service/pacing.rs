//! A thousand requests that were held go to a program that does one thing at a time and has room for eight
//! connections: what doesn't fit into its queue would wait for TCP to try again, a second later at best.

use crate::{
    client::routes,
    wake::{api, asleep, held},
    world::{SOON, World},
};
use http::StatusCode;
use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use zectre_testkit::wait_until;

/// `listen(2)`; Linux lets one more in.
const BACKLOG: u32 = 8;
/// Soon enough, beside what the program itself takes, that none of them can have waited for TCP again and again.
const QUICKLY: Duration = Duration::from_secs(15);
/// A kept connection is closed for its age after 30 s.
const NEVER_READ: Duration = Duration::from_secs(25);

/// One request at a time, a connection for each.
struct Serial {
    address: SocketAddr,
    /// The longest its queue was.
    queued: Arc<AtomicUsize>,
    /// Connections that brought no request: the proxy looks whether anybody is there.
    knocks: Arc<AtomicUsize>,
    /// Milliseconds that it was at work.
    busy_ms: Arc<AtomicUsize>,
    _running: JoinSet<()>,
}

impl Serial {
    fn new(work: Duration) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind("127.0.0.1:0".parse().expect("an address"))
            .expect("a free port");
        let listener = socket.listen(BACKLOG).expect("it listens");
        let address = listener.local_addr().expect("bound");
        let [queued, knocks, busy_ms] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
        let (longest, knocked, worked_ms) = (Arc::clone(&queued), Arc::clone(&knocks), Arc::clone(&busy_ms));
        let mut running = JoinSet::new();
        running.spawn(async move {
            loop {
                longest.fetch_max(queue_length(&listener), SeqCst);
                let (stream, _) = listener.accept().await.expect("a connection");
                let began = Instant::now();
                // One that left meanwhile is none of the test's business.
                if let Ok(false) = answer(stream, work).await {
                    knocked.fetch_add(1, SeqCst);
                }
                worked_ms.fetch_add(began.elapsed().as_millis() as usize, SeqCst);
            }
        });
        Self {
            address,
            queued,
            knocks,
            busy_ms,
            _running: running,
        }
    }
}

/// Whether there was a request.
async fn answer(mut stream: TcpStream, work: Duration) -> std::io::Result<bool> {
    let (mut head, mut bytes) = (Vec::new(), [0; 4_096]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut bytes).await? {
            0 => return Ok(false),
            count => head.extend_from_slice(&bytes[..count]),
        }
    }
    sleep(work).await;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ndone")
        .await?;
    Ok(true)
}

/// Connections that the kernel holds for `listener`, as it tells itself.
fn queue_length(listener: &TcpListener) -> usize {
    let port = format!(":{:04X}", listener.local_addr().expect("bound").port());
    // Those that listen come first; reading all the others would take tens of milliseconds.
    let table = BufReader::new(std::fs::File::open("/proc/net/tcp").expect("Linux"));
    let mut lines = table.lines().map(|line| line.expect("readable"));
    let line = lines.find(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some("0A")
    });
    let queues = line
        .expect("it listens")
        .split_whitespace()
        .nth(4)
        .expect("both queues")
        .to_owned();
    let (_, waiting) = queues.split_once(':').expect("two queues");
    usize::from_str_radix(waiting, 16).expect("a number")
}

/// Holds `count` requests, then lets them go at once; all must be answered by `origin`, quickly. On how many connections
/// the proxy found it slow.
async fn release(origin: &Serial, count: u64) -> u64 {
    let mut world = World::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let api = api(world.key.clone(), origin.address, Arc::clone(&gate)).await;
    world.configure(&format!("[api]\npublic_url = \"http://{}\"", api.address));
    let app = asleep(&world, "one").await;
    let proxy = Arc::new(world.start().await);
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let proxy = Arc::clone(&proxy);
        clients.spawn(async move { proxy.get("one-default").await });
    }
    wait_until(SOON, "all are held", || async {
        (held(proxy.admin, &world.key, app).await == count).then_some(())
    })
    .await;
    gate.add_permits(1);
    let began = Instant::now();
    let answered = async {
        while let Some(got) = clients.join_next().await {
            let got = got.expect("it did not panic");
            assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "done"));
        }
    };
    timeout(2 * SOON, answered).await.expect("all are answered");
    let (took, busy) = (
        began.elapsed(),
        Duration::from_millis(origin.busy_ms.load(SeqCst) as u64),
    );
    assert!(
        took < busy + QUICKLY,
        "{took:?} for what takes the program {busy:?}"
    );
    drop(clients);
    let shown = routes(proxy.admin, &world.key).await;
    let backend = &shown["deployments"][app.deployment.to_string()]["backends"][0];
    let slow = backend["slow_openings"].as_u64().expect("a number");
    Arc::into_inner(proxy).expect("the clients are gone").stop().await;
    slow
}

/// A program with two threads, each of which stays at one connection until that is closed.
fn two_threads() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    for _ in 0..2 {
        let listener = listener.try_clone().expect("a handle");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(&stream);
                let mut line = String::new();
                // No body comes; a head ends with an empty line.
                while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
                    if line.ends_with("\r\n\r\n") {
                        line.clear();
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
                        std::io::Write::write_all(&mut &stream, answer).expect("somebody reads");
                    }
                }
            }
        });
    }
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_with_fewer_threads_than_connections_answers_all_of_them_soon() {
    let world = World::new().await;
    let app = world.app("two").await;
    world.task(app.deployment, two_threads()).await;
    let proxy = world.start().await;
    let mut asking = JoinSet::new();
    for _ in 0..16 {
        let address = proxy.address;
        asking.spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("the proxy listens");
            let mut slowest = Duration::ZERO;
            for _ in 0..20 {
                let began = std::time::Instant::now();
                stream
                    .write_all(
                        b"POST / HTTP/1.1\r\nHost: two-default.zectre.localhost\r\nContent-Length: 0\r\n\r\n",
                    )
                    .await
                    .expect("sent");
                let mut answer = [0; 1_024];
                let count = stream.read(&mut answer).await.expect("an answer");
                assert!(
                    answer[..count].starts_with(b"HTTP/1.1 200"),
                    "{}",
                    String::from_utf8_lossy(&answer[..count])
                );
                slowest = slowest.max(began.elapsed());
            }
            slowest
        });
    }
    let slowest = asking.join_all().await.into_iter().max().expect("many");
    // Until then nobody would be read.
    assert!(slowest < NEVER_READ, "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_held_requests_never_fill_a_short_queue() {
    let origin = Serial::new(Duration::from_micros(100));
    let slow = release(&origin, 1_000).await as usize;
    let longest = origin.queued.load(SeqCst);
    // On a machine that stood still the program was slow, and looked after: only then more come, so many at most.
    let bound = BACKLOG as usize + 2 * slow + origin.knocks.load(SeqCst);
    assert!((2..=bound).contains(&longest), "{longest} of {bound}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_programs_full_queue_is_noticed_before_tcp_tries_again() {
    // Slow enough to be taken for one that works on many at once.
    let origin = Serial::new(Duration::from_millis(50));
    assert!(release(&origin, 150).await > 0, "it was not found slow");
    let longest = origin.queued.load(SeqCst);
    assert!(longest > BACKLOG as usize, "its queue was never full: {longest}");
}
