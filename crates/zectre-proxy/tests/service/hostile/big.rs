//! Much of everything: bodies that fit into no memory, routes that change under open connections.

use super::frames::{self, SETTINGS, WHOLE, WINDOW_UPDATE, frame, headers};
use crate::{
    client::{full, metric, read_until},
    origin::Origin,
    process::Process,
    program::Program,
    secure::Secure,
    sockets,
    world::{App, SOON, World},
};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{interval, timeout},
};
use zectre_testkit::wait_until;

/// 2 GiB, and the byte that takes it past what 31 bits hold.
const BYTES: u64 = (2 << 30) + 1;
const PIECE: usize = 1 << 20;
const LONG: Duration = Duration::from_secs(120);

/// The most resident bytes that this process, of which the proxy is a part, ever had.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("it is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kib.expect("a number of KiB") << 10
}

/// Takes a body of so many bytes and answers with one.
async fn mirror(bytes: u64) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut running = JoinSet::new();
    running.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_head(&mut stream).await;
            drain(&mut stream, bytes).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("it reads");
            pour(&mut stream, bytes).await;
        }
    });
    (address, running)
}

/// Byte by byte: nothing of the body must be taken with it.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    String::from_utf8_lossy(&head).into_owned()
}

async fn drain(stream: &mut TcpStream, mut left: u64) {
    let mut piece = vec![0; PIECE];
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = stream.read(&mut piece[..most]).await.expect("readable");
        assert!(count > 0, "{left} bytes are missing");
        left -= count as u64;
    }
}

async fn pour(stream: &mut TcpStream, mut left: u64) {
    let piece = vec![b'x'; PIECE];
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        left -= stream.write(&piece[..most]).await.expect("it reads") as u64;
    }
}

#[tokio::test]
async fn two_gibibytes_go_through_in_both_ways_and_leave_no_trace() {
    let mut world = World::new().await;
    world.configure("[proxy.limits]\nbody_bytes_max = 0");
    let (mirror, _running) = mirror(BYTES).await;
    let app = world.app("large").await;
    world.task(app.deployment, mirror).await;
    let proxy = world.start().await;
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: {BYTES}\r\n\r\n",
        full("large-default")
    );
    let before = peak();
    let all = async {
        stream.write_all(head.as_bytes()).await.expect("it reads");
        pour(&mut stream, BYTES).await;
        let answer = read_head(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        drain(&mut stream, BYTES).await;
    };
    timeout(LONG, all).await.expect("all of it, in time");
    let more = peak() - before;
    assert!(more < 64 << 20, "{more} bytes more are resident");
    proxy.stop().await;
}

/// A program whose answers are more than anybody keeps, and what it has been able to say.
struct Pouring {
    program: Program,
    poured: Arc<AtomicU64>,
}

impl Pouring {
    async fn new() -> Self {
        let poured = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&poured);
        let program = Program::new(move |mut stream| {
            let counted = Arc::clone(&counted);
            async move {
                read_head(&mut stream).await;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.expect("it reads");
                let piece = vec![b'x'; PIECE];
                while let Ok(count) = stream.write(&piece).await {
                    counted.fetch_add(count as u64, Relaxed);
                }
            }
        })
        .await;
        Self { program, poured }
    }

    /// Waits until nobody takes any more of it.
    async fn stops(&self) {
        let (mut seen, mut looks, mut look) = (0, 0, interval(Duration::from_millis(100)));
        while looks < 5 {
            look.tick().await;
            let now = self.poured.load(Relaxed);
            looks = if now == seen && now > 0 { looks + 1 } else { 0 };
            seen = now;
        }
    }
}

/// Clients that ask for much and read nothing of it, each on a connection or all on one.
#[tokio::test]
async fn who_reads_nothing_costs_little() {
    const READERS: u32 = 200;
    let world = World::new().await;
    let pouring = Pouring::new().await;
    let app = world.app("large").await;
    world.task(app.deployment, pouring.program.address).await;
    let (site, host) = (world.site("large", ""), full("large-default"));
    let one_each = async || {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let mut readers = Vec::new();
        for _ in 0..READERS {
            let mut reader = TcpStream::connect(site.address).await.expect("it listens");
            reader.write_all(request.as_bytes()).await.expect("it reads");
            read_head(&mut reader).await;
            readers.push(reader);
        }
        readers
    };
    let one_for_all = async || {
        let fields = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", &host),
        ];
        // Windows as wide as they may be.
        let initial = [&[0, 4][..], &0x7fff_ffff_u32.to_be_bytes()].concat();
        let more = (0x7fff_ffff_u32 - 65_535).to_be_bytes();
        let mut bytes = frame(SETTINGS, 0, 0, &initial);
        bytes.extend(frame(WINDOW_UPDATE, 0, 0, &more));
        bytes.extend((0..READERS).flat_map(|reader| headers(2 * reader + 1, WHOLE, &fields)));
        vec![frames::open(site.address, &bytes).await]
    };
    let cost = async |readers: Vec<TcpStream>, process: Process, before: u64| {
        pouring.stops().await;
        let each = (process.peak_memory_bytes() - before) / u64::from(READERS);
        assert!(each < 512 << 10, "{each} bytes for each of them");
        drop(readers);
        process.kill().await;
    };
    let process = site.ready().await;
    let before = process.peak_memory_bytes();
    cost(one_each().await, process, before).await;
    pouring.poured.store(0, Relaxed);
    let process = site.ready().await;
    let before = process.peak_memory_bytes();
    cost(one_for_all().await, process, before).await;
}

/// As much as a build without optimizations encrypts twice in two seconds; four times what may stay of it.
const SECURE_BYTES: u64 = 256 << 20;

#[tokio::test]
async fn a_quarter_of_a_gibibyte_goes_both_ways_over_http_2_and_tls_and_leaves_no_trace() {
    let mut world = World::new().await;
    world.configure("[proxy.limits]\nbody_bytes_max = 0\n[proxy.tls]\nenabled = true");
    let (mirror, _running) = mirror(SECURE_BYTES).await;
    let app = world.app("large").await;
    world.task(app.deployment, mirror).await;
    let proxy = world.start().await;
    let host = full("large-default");
    let secure = Secure::connect(proxy.secure(), &host, &["h2"]).await;
    assert_eq!(secure.alpn(), "h2");
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(secure.stream))
        .await
        .expect("HTTP/2");
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let piece = Bytes::from(vec![b'x'; PIECE]);
    let pieces =
        (0..SECURE_BYTES / PIECE as u64).map(move |_| Ok::<_, Infallible>(Frame::data(piece.clone())));
    let request = Request::post(format!("https://{host}/"))
        .header("content-length", SECURE_BYTES)
        .body(StreamBody::new(stream::iter(pieces)))
        .expect("valid");
    let before = peak();
    let all = async {
        let mut answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let mut heard = 0;
        while let Some(frame) = answer.frame().await {
            heard += frame.expect("whole").into_data().expect("no trailers").len() as u64;
        }
        heard
    };
    let heard = timeout(LONG, all).await.expect("all of it, in time");
    assert_eq!(heard, SECURE_BYTES);
    let more = peak() - before;
    assert!(more < 64 << 20, "{more} bytes more are resident");
    proxy.stop().await;
}

/// Ten thousand changes, each one that proxies hear of: tasks of `app` at these addresses come and go, and so does a domain of
/// `other`.
fn storm(app: &App, [task, socket]: [SocketAddr; 2], other: &App) -> String {
    format!(
        "DO $$ BEGIN FOR turn IN 1..10000 LOOP
            UPDATE tasks SET routed = (turn % 2 = 0) WHERE (deployment_id = '{}' AND port = {}) OR port = {};
            IF turn % 2 = 0 THEN DELETE FROM routes WHERE domain = 'storm.example';
            ELSE INSERT INTO routes (id, domain, application_id, environment_id)
                SELECT gen_random_uuid(), 'storm.example', application_id, id FROM environments WHERE id = '{}'; END IF;
            PERFORM raise_routing_epoch(); COMMIT;
        END LOOP; END $$",
        app.deployment,
        task.port(),
        socket.port(),
        other.environment
    )
}

#[tokio::test]
async fn ten_thousand_changes_of_routes_drop_none_of_a_thousand_connections() {
    let world = World::new().await;
    let echo = || Origin::new(|request| async move { Response::new(request.into_body().boxed()) });
    let (first, second) = (echo().await, echo().await);
    let app = world.app_at("victim", &[&first, &second]).await;
    let (third, fourth) = (sockets::echo().await, sockets::echo().await);
    world.app_at("socket", &[&third, &fourth]).await;
    let other = world.app_at("other", &[&second]).await;
    let proxy = world.start().await;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
        full("victim-default")
    );
    let mut open = Vec::new();
    let mut upgraded = Vec::new();
    for _ in 0..500 {
        let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
        sockets::upgrade(&mut stream, "socket-default").await;
        upgraded.push(stream);
        let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
        stream.write_all(head.as_bytes()).await.expect("it reads");
        read_until(&mut stream, "first\r\n").await;
        open.push(stream);
    }
    let changes = storm(&app, [second.address, fourth.address], &other);
    let changing = async {
        sqlx::raw_sql(sqlx::AssertSqlSafe(changes))
            .execute(&world.pool)
            .await
            .expect("changed");
        world.publish().await
    };
    // New ones are served meanwhile.
    let mut served = 0;
    let epoch = async {
        let mut changing = std::pin::pin!(changing);
        loop {
            tokio::select! {
                epoch = &mut changing => return epoch,
                got = proxy.get("other-default") => {
                    assert_eq!(got.status, 200);
                    served += 1;
                }
            }
        }
    };
    let epoch = timeout(LONG, epoch).await.expect("the changes are made");
    assert!(epoch > 10_000 && served > 0, "{epoch}, {served}");
    for mut stream in upgraded {
        stream.write_all(b"still here").await.expect("it is open");
        read_until(&mut stream, "still here").await;
    }
    for mut stream in open {
        stream
            .write_all(b"4\r\nlast\r\n0\r\n\r\n")
            .await
            .expect("it is open");
        read_until(&mut stream, "last\r\n0\r\n\r\n").await;
    }
    wait_until(SOON, "nothing is under way", async || {
        (metric(proxy.admin, "proxy_in_flight").await < 0.5).then_some(())
    })
    .await;
    proxy.stop().await;
}
