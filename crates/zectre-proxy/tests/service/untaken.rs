//! What may not be repeated, on kept connections that end: it goes on a new one exactly if no program can have had any of it.

use crate::{
    client::{full, metric, read_until},
    program::Program,
    world::{Running, SOON, World},
};
use rustix::net::{Shutdown, shutdown};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};
use zectre_testkit::wait_until;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// The end of each request.
const END: &[u8] = b"sized";

fn post(shop: &str, target: &str) -> String {
    let host = full(&format!("{shop}-default"));
    format!("POST /{target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nsized")
}

/// The name in a request's target.
fn target(request: &[u8]) -> String {
    let text = String::from_utf8_lossy(request);
    let target = text.split(' ').nth(1).expect("it has come so far");
    target.trim_start_matches('/').to_owned()
}

/// What became of each request at the program.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<HashMap<String, Fate>>>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Fate {
    /// Times that it was read and answered.
    answered: u32,
    /// Times that it was there, in whole or in part, when the program closed.
    left: u32,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Fate>> {
        self.0.lock().expect("no test panics with it")
    }
}

/// How long a program waits after an answer until it closes.
#[derive(Clone, Default)]
struct Pauses(Arc<AtomicUsize>);

impl Pauses {
    /// Spread over what the next request takes from its client to a task.
    fn next(&self) -> Duration {
        let micros = self.0.fetch_add(61, SeqCst) % 1_500;
        Duration::from_micros(micros as u64)
    }
}

/// Answers some requests on a connection, and then closes it without a word. What has come by then is looked at, as a program might: the
/// kernel refuses all that comes later, as it does after a close.
async fn serve_some(mut stream: TcpStream, ledger: Ledger, pauses: Pauses) {
    // More than those after which a close would be taken for the program's habit.
    const SOME: usize = 10;
    let mut bytes = Vec::new();
    for _ in 0..SOME {
        bytes.clear();
        while !bytes.ends_with(END) {
            if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                return;
            }
        }
        ledger.lock().entry(target(&bytes)).or_default().answered += 1;
        if stream.write_all(OK).await.is_err() {
            return;
        }
    }
    // While the next request is on its way, which no event says: each time at another moment.
    let (answered, pause) = (Instant::now(), pauses.next());
    while answered.elapsed() < pause {
        tokio::task::yield_now().await;
    }
    let _ = shutdown(&stream, Shutdown::Both);
    let mut left = Vec::new();
    let _ = stream.read_to_end(&mut left).await;
    if !left.is_empty() {
        ledger.lock().entry(target(&left)).or_default().left += 1;
    }
}

/// Sends `times` requests, and tells which were answered by the program.
async fn visit(address: SocketAddr, shop: String, name: String, times: usize) -> Vec<(String, bool)> {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let mut told = Vec::new();
    for time in 0..times {
        let target = format!("{name}-{time}");
        stream
            .write_all(post(&shop, &target).as_bytes())
            .await
            .expect("it reads");
        let answer = read_until(&mut stream, "\r\n\r\n").await;
        let is_answered = answer.starts_with("HTTP/1.1 200");
        if is_answered {
            if !answer.ends_with("ok") {
                read_until(&mut stream, "ok").await;
            }
        } else {
            assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
            stream = TcpStream::connect(address).await.expect("it listens");
        }
        told.push((target, is_answered));
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_program_closed_before_it_came_is_sent_again_and_what_it_may_have_had_is_not() {
    const VISITORS: usize = 32;
    const TIMES: usize = 30;
    // The first ones teach the proxy not to trust the connections of such a program.
    const SENT_AGAIN: f64 = 0.5;
    let world = World::new().await;
    let ledger = Ledger::default();
    let (kept, pauses) = (ledger.clone(), Pauses::default());
    let program = Program::new(move |stream| serve_some(stream, kept.clone(), pauses.clone())).await;
    let proxy = world.start().await;
    let (began, mut round, mut told) = (Instant::now(), 0, Vec::new());
    let series = "proxy_upstream_errors_total{kind=\"closed\"}";
    while metric(proxy.admin, series).await < SENT_AGAIN {
        let there = told
            .iter()
            .filter(|(_, is_answered): &&(String, bool)| !is_answered)
            .count();
        let sent_again = metric(proxy.admin, series).await;
        assert!(
            began.elapsed() < SOON,
            "{sent_again} sent again of {}, {there} there at a close",
            told.len()
        );
        // Three that were there at a close are enough, and a deployment's kept connections are not trusted for a while: each round has its own.
        let shop = format!("shop{round}");
        let app = world.app(&shop).await;
        world.task(app.deployment, program.address).await;
        world.publish().await;
        let mut visitors = JoinSet::new();
        for visitor in 0..VISITORS {
            visitors.spawn(visit(
                proxy.address,
                shop.clone(),
                format!("{round}-{visitor}"),
                TIMES,
            ));
        }
        told.extend(visitors.join_all().await.concat());
        round += 1;
    }
    proxy.stop().await;
    drop(program);
    let ledger = ledger.lock();
    for (name, is_answered) in &told {
        let fate = ledger.get(name).copied().unwrap_or_default();
        let expected = if *is_answered {
            Fate { answered: 1, left: 0 }
        } else {
            Fate { answered: 0, left: 1 }
        };
        assert_eq!(fate, expected, "{name} of {}", told.len());
    }
    let lost = told.iter().filter(|(_, is_answered)| !is_answered).count();
    println!("{} sent, {lost} there at a close", told.len());
}

/// Answers on a connection until one is to die of: of that it reads a part, and resets the connection.
async fn reset_at(mut stream: TcpStream, part: usize, had: Arc<AtomicUsize>) {
    let die = b"POST /die".as_slice();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        bytes.resize(die.len(), 0);
        if stream.read_exact(&mut bytes).await.is_err() {
            return;
        }
        if bytes == die {
            had.fetch_add(1, SeqCst);
            let mut more = vec![0; part];
            stream.read_exact(&mut more).await.expect("it comes");
            stream.set_zero_linger().expect("an option");
            return;
        }
        while !bytes.ends_with(END) {
            if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                return;
            }
        }
        stream.write_all(OK).await.expect("it reads");
    }
}

#[tokio::test]
async fn what_a_program_reads_a_part_of_is_never_sent_again() {
    for part in [0, 20] {
        let world = World::new().await;
        let app = world.app("shop").await;
        let had = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&had);
        let program = Program::new(move |stream| reset_at(stream, part, Arc::clone(&counted))).await;
        world.task(app.deployment, program.address).await;
        let proxy = world.start().await;
        for round in 1..=10 {
            // On a connection that is kept.
            let told = visit(proxy.address, "shop".into(), format!("{part}-{round}"), 2).await;
            assert!(told.iter().all(|(_, is_answered)| *is_answered), "{told:?}");
            let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
            stream
                .write_all(post("shop", "die").as_bytes())
                .await
                .expect("it reads");
            let answer = read_until(&mut stream, "\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
            assert_eq!(had.load(SeqCst), round);
        }
        proxy.stop().await;
    }
}

/// Asks for bodies that wait, and answers with how many requests the connection has had.
async fn count(mut stream: TcpStream, open: Arc<AtomicUsize>) {
    open.fetch_add(1, SeqCst);
    for number in 1.. {
        let mut bytes = Vec::new();
        while !bytes.ends_with(END) {
            if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                open.fetch_sub(1, SeqCst);
                return;
            }
            let head = String::from_utf8_lossy(&bytes);
            if head.ends_with("\r\n\r\n") && head.contains("100-continue") {
                let asks = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
                asks.await.expect("it reads");
            }
        }
        let answer = format!("HTTP/1.1 200 OK\r\nX-Number: {number}\r\nContent-Length: 2\r\n\r\nok");
        stream.write_all(answer.as_bytes()).await.expect("it reads");
    }
}

/// The number that the program answers a request with a body of so many bytes with, whose head has `more`.
async fn number(proxy: &Running, bytes: usize, more: &str) -> String {
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    let host = full("shop-default");
    let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {bytes}\r\n{more}\r\n");
    let mut body = vec![b'x'; bytes];
    body[bytes - END.len()..].copy_from_slice(END);
    stream.write_all(head.as_bytes()).await.expect("it reads");
    stream.write_all(&body).await.expect("it reads");
    let answer = read_until(&mut stream, "ok").await;
    let number = answer.lines().find_map(|line| line.strip_prefix("x-number: "));
    number.expect(&answer).to_owned()
}

#[tokio::test]
async fn what_is_too_long_to_be_kept_goes_on_a_new_connection_in_place_of_one() {
    const KEPT_MAX: usize = 64 * 1024;
    let world = World::new().await;
    let app = world.app("shop").await;
    let open = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&open);
    let program = Program::new(move |stream| count(stream, Arc::clone(&counted))).await;
    world.task(app.deployment, program.address).await;
    let proxy = world.start().await;
    // As many as there are threads, each of which keeps connections of its own.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for more in ["", "Expect: 100-continue\r\n"] {
        for _ in 0..4 * threads {
            assert_eq!(number(&proxy, KEPT_MAX + 1, more).await, "1", "{more}");
        }
    }
    // Long before what rests is closed in any case.
    wait_until(SOON / 4, "the others are closed", async || {
        (open.load(SeqCst) <= threads).then_some(())
    })
    .await;
    proxy.stop().await;
}
