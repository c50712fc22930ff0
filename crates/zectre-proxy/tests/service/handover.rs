//! An upgrade: one process takes over from another, and nobody notices.

use crate::{
    client::{full, metric, raw, raw as send, read_until},
    origin::{Origin, text},
    sockets,
    world::{SOON, World},
};
use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    task::JoinSet,
    time::timeout,
};
use zectre_testkit::{free_port, wait_until};

const TAKEN: &str = "another process has taken over";

/// Visitors who never pause, each on a connection of its own.
struct Visitors {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    running: JoinSet<()>,
}

impl Visitors {
    fn new(address: SocketAddr, request: &str) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut running = JoinSet::new();
        for _ in 0..4 {
            let (stop, served, request) = (Arc::clone(&stop), Arc::clone(&served), request.to_owned());
            running.spawn(async move {
                while !stop.load(SeqCst) {
                    let answer = raw(address, request.as_bytes()).await;
                    assert!(
                        answer.starts_with("HTTP/1.1 200") && answer.ends_with("served"),
                        "{answer:?}"
                    );
                    served.fetch_add(1, SeqCst);
                }
            });
        }
        Self {
            stop,
            served,
            running,
        }
    }

    /// Waits until so many more have been served.
    async fn more(&self, count: usize) {
        let before = self.served.load(SeqCst);
        wait_until(SOON, "visitors are served", || async {
            (self.served.load(SeqCst) >= before + count).then_some(())
        })
        .await;
    }

    /// Every one of them was served.
    async fn leave(mut self) {
        self.stop.store(true, SeqCst);
        while let Some(visitor) = self.running.join_next().await {
            visitor.expect("every connection was answered");
        }
    }
}

/// Tells when `/slow` has come, and answers it when it may.
async fn sometimes_slow(began: &Arc<Notify>, finish: &Arc<Notify>) -> Origin {
    let (begins, finishes) = (Arc::clone(began), Arc::clone(finish));
    Origin::new(move |request| {
        let (begins, finishes) = (Arc::clone(&begins), Arc::clone(&finishes));
        async move {
            if request.uri().path() == "/slow" {
                begins.notify_one();
                finishes.notified().await;
            }
            text("served")
        }
    })
    .await
}

#[tokio::test]
async fn a_new_process_takes_over_without_a_refused_connection() {
    let world = World::new().await;
    let (began, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let origin = sometimes_slow(&began, &finish).await;
    world.app_at("steady", &[&origin]).await;
    let socket = sockets::echo().await;
    world.app_at("socket", &[&socket]).await;
    let path = world.directory.path().join("handover");
    let site = world.site("steady", &format!("handover_path = \"{}\"", path.display()));
    let first = site.ready().await;
    let mode = std::fs::metadata(&path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    // An open socket and a slow request, both with the first one.
    let mut open = TcpStream::connect(site.address).await.expect("it listens");
    sockets::upgrade(&mut open, "socket-default").await;
    let mut slow = JoinSet::new();
    let address = site.address;
    let head = |path: &str| {
        let host = full("steady-default");
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    };
    let request = head("/slow");
    slow.spawn(async move { raw(address, request.as_bytes()).await });
    began.notified().await;

    let visitors = Visitors::new(address, &head("/"));
    visitors.more(50).await;
    let mut running = first;
    for takeover in 1..=3 {
        let next = site.start();
        wait_until(SOON, "it has taken over", || async {
            (site.said(TAKEN) == takeover).then_some(())
        })
        .await;
        visitors.more(50).await;
        if takeover == 1 {
            assert!(running.is_running(), "it has a socket and a request left");
            open.write_all(b"still here").await.expect("it reads");
            read_until(&mut open, "still here").await;
            drop(std::mem::replace(
                &mut open,
                TcpStream::connect(address).await.expect("it listens"),
            ));
            finish.notify_one();
            let answer = slow.join_next().await.expect("one").expect("it did not panic");
            assert!(answer.ends_with("served"), "{answer}");
        }
        running.ended().await;
        running = next;
    }
    visitors.more(50).await;
    visitors.leave().await;
    drop(open);
    running.terminate();
    running.ended().await;
}

/// As a service manager starts it: what comes before it, and between two of it, waits.
#[tokio::test]
async fn a_process_listens_at_the_sockets_that_it_is_given_and_at_no_others() {
    let world = World::new().await;
    let origin = Origin::saying("served").await;
    world.app_at("steady", &[&origin]).await;
    let tcp = free_port();
    let site = world.site("given", &format!("tcp_port_range = \"{tcp}-{tcp}\""));
    let listen = |address: SocketAddr| TcpListener::bind(address).expect("a free port");
    let plain = listen(site.address);
    let raw = listen(([127, 0, 0, 1], tcp).into());
    let give = || [&plain, &raw].map(|listener| listener.try_clone().expect("a socket").into());
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        full("steady-default")
    );
    for _ in 0..2 {
        let early = raw_socket(site.address, &request).await;
        let process = site.start_with(give(), "plain:zectre.socket");
        assert!(read_all(early).await.ends_with("served"));
        assert!(send(site.address, request.as_bytes()).await.ends_with("served"));
        process.terminate();
        process.ended().await;
    }
    // What nobody asked for is not passed over in silence.
    for (listener, names, why) in [
        (
            listen(([127, 0, 0, 2], tcp).into()).into(),
            "plain:",
            "at 127.0.0.2",
        ),
        (
            raw.try_clone().expect("a socket").into(),
            "plain:admin",
            "the socket `admin` at 127.0.0.1",
        ),
        (
            UdpSocket::bind("127.0.0.1:0").expect("a free port").into(),
            "plain:tcp",
            "descriptor 4 (`tcp`): fd 4 is not a valid tcp socket",
        ),
    ] {
        let given: [OwnedFd; 2] = [plain.try_clone().expect("a socket").into(), listener];
        site.start_with(given, names).failed().await;
        assert_eq!(site.said(why), 1, "{why}");
    }
}

async fn raw_socket(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("the kernel takes it");
    stream.write_all(request.as_bytes()).await.expect("it is kept");
    stream
}

async fn read_all(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    let read = timeout(SOON, stream.read_to_string(&mut answer)).await;
    read.expect("in time").expect("words");
    answer
}

/// It was accepted already: the next process can't serve it.
#[tokio::test]
async fn who_waits_for_a_place_is_served_at_a_take_over() {
    let world = World::new().await;
    let origin = Origin::saying("served").await;
    world.app_at("steady", &[&origin]).await;
    let path = world.directory.path().join("handover");
    let more = format!("connections_max = 1\nhandover_path = \"{}\"", path.display());
    let site = world.site("full", &more);
    let first = site.ready().await;
    let idle = TcpStream::connect(site.address).await.expect("it listens");
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        full("steady-default")
    );
    let waiting = raw_socket(site.address, &request).await;
    wait_until(SOON, "it waits", || async {
        (metric(site.admin, "proxy_connections_waited_total").await > 0.5).then_some(())
    })
    .await;
    let second = site.start();
    assert!(read_all(waiting).await.ends_with("served"));
    drop(idle);
    first.ended().await;
    second.terminate();
    second.ended().await;
}

#[tokio::test]
async fn a_successor_that_never_gets_ready_changes_nothing() {
    let world = World::new().await;
    let origin = Origin::saying("served").await;
    world.app_at("steady", &[&origin]).await;
    let path = world.directory.path().join("handover");
    let site = world.site("steady", &format!("handover_path = \"{}\"", path.display()));
    let mut first = site.ready().await;
    // It has no database and no snapshot, and so no routes.
    let lost = site.but("lost.toml", |text| {
        let rest = text.split_once("connections_max").expect("written so").1;
        format!("[database]\nurl = \"postgres://zectre@127.0.0.1:1/none\"\nconnections_max{rest}")
    });
    let successor = lost.start();
    wait_until(SOON, "it has the listeners", || async {
        (lost.said("takes over the listeners") == 1).then_some(())
    })
    .await;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        full("steady-default")
    );
    for _ in 0..50 {
        assert!(raw(site.address, request.as_bytes()).await.ends_with("served"));
    }
    // One that is stopped before it begins takes nobody, though it could.
    first.pause();
    let waiting = raw_socket(site.address, &request).await;
    successor.terminate();
    successor.ended().await;
    first.resume();
    assert!(read_all(waiting).await.ends_with("served"));
    wait_until(SOON, "the first one hears of it", || async {
        (site.said("did not begin") == 1).then_some(())
    })
    .await;
    for _ in 0..50 {
        assert!(raw(site.address, request.as_bytes()).await.ends_with("served"));
    }
    assert!(first.is_running());
    // The next one is no worse off.
    let second = site.start();
    first.ended().await;
    assert!(raw(site.address, request.as_bytes()).await.ends_with("served"));
    second.terminate();
    second.ended().await;
}
