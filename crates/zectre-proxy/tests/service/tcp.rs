//! Deployments that speak plain TCP: bytes both ways at a port of their own, with all that holds for requests.

use crate::{
    client::{comes_to, full, metric, raw, routes},
    origin::Origin,
    process::Site,
    program::Program,
    secure::Secure,
    wake::{api, held},
    world::{App, Running, SOON, World},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use zectre_common::id::DeploymentId;
use zectre_testkit::{free_port, wait_until};

/// A program that greets with its name and sends back what it is sent, until it is told that there is no more. Dropping it
/// breaks its connections.
async fn echoing(name: &'static str) -> Program {
    Program::new(move |mut stream| async move {
        // Broken off, should this not come to its end.
        #[expect(deprecated, reason = "it does not block with nothing to wait for")]
        stream
            .set_linger(Some(std::time::Duration::ZERO))
            .expect("a socket");
        stream.write_all(name.as_bytes()).await.expect("it reads");
        let (mut from, mut to) = stream.split();
        let _ = copy(&mut from, &mut to).await;
        #[expect(deprecated, reason = "as above")]
        stream.set_linger(None).expect("a socket");
    })
    .await
}

/// An application whose production environment has this port, with a task at each program.
async fn app_at(world: &World, name: &str, port: u16, programs: &[&Program]) -> App {
    let app = world.app(name).await;
    give_port(world, app, Some(port)).await;
    for program in programs {
        world.task(app.deployment, program.address).await;
    }
    app
}

/// An application without a task at each port: their deployments.
async fn apps_at(world: &World, ports: &BTreeSet<u16>) -> BTreeMap<u16, DeploymentId> {
    let numbers: Vec<i32> = ports.iter().copied().map(i32::from).collect();
    for statement in [
        "INSERT INTO applications (id, namespace_id, name, subdomain)
         SELECT gen_random_uuid(), n.id, 'app-' || p, 'app-' || p
         FROM unnest($1::int[]) p, (SELECT id FROM namespaces LIMIT 1) n",
        "INSERT INTO environments (id, application_id, slug, public_port)
         SELECT gen_random_uuid(), a.id, 'production', p
         FROM unnest($1::int[]) p JOIN applications a ON a.name = 'app-' || p",
        r#"INSERT INTO deployments (id, application_id, environment_id, version, spec, preview_label, replicas,
                                    idle_timeout_secs, cold_start_enabled, status)
           SELECT gen_random_uuid(), application_id, id, 1, '{"networking": {"protocol": "tcp"}}', 'p-' || public_port,
                  1, 300, true, 'succeeded' FROM environments WHERE public_port = ANY($1)"#,
        "UPDATE environments e SET current_deployment_id = d.id FROM deployments d
         WHERE d.environment_id = e.id AND e.public_port = ANY($1)",
    ] {
        let done = sqlx::query(statement).bind(&numbers).execute(&world.pool).await;
        done.expect("written");
    }
    let rows = sqlx::query_as(
        "SELECT public_port, current_deployment_id FROM environments WHERE public_port = ANY($1)",
    );
    let rows: Vec<(i32, DeploymentId)> = rows
        .bind(&numbers)
        .fetch_all(&world.pool)
        .await
        .expect("readable");
    rows.into_iter().map(|(port, id)| (port as u16, id)).collect()
}

async fn give_port(world: &World, app: App, port: Option<u16>) {
    sqlx::query("UPDATE environments SET public_port = $2 WHERE id = $1")
        .bind(app.environment.get())
        .bind(port.map(i32::from))
        .execute(&world.pool)
        .await
        .expect("updated");
    speak_tcp(world, app).await;
}

async fn speak_tcp(world: &World, app: App) {
    sqlx::query(
        "UPDATE deployments SET spec = '{\"networking\": {\"protocol\": \"tcp\"}}' WHERE environment_id = $1",
    )
    .bind(app.environment.get())
    .execute(&world.pool)
    .await
    .expect("updated");
}

/// A connection, once the listener is there.
async fn connect(to: SocketAddr) -> TcpStream {
    wait_until(
        SOON,
        "it listens",
        || async move { TcpStream::connect(to).await.ok() },
    )
    .await
}

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

async fn reads(stream: &mut TcpStream, words: &str) {
    let mut got = vec![0; words.len()];
    timeout(SOON, stream.read_exact(&mut got))
        .await
        .expect("in time")
        .expect("it says something");
    assert_eq!(String::from_utf8_lossy(&got), words);
}

async fn echoes(stream: &mut TcpStream, words: &str) {
    stream.write_all(words.as_bytes()).await.expect("it reads");
    reads(stream, words).await;
}

async fn ends(stream: &mut TcpStream) -> Result<Vec<u8>, ErrorKind> {
    let mut rest = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut rest))
        .await
        .expect("it ends");
    read.map(|_| rest).map_err(|error| error.kind())
}

#[tokio::test]
async fn bytes_go_both_ways_and_either_side_may_be_done_first() {
    let world = World::new().await;
    let (program, port) = (echoing("hi").await, free_port());
    let app = app_at(&world, "echo", port, &[&program]).await;
    let proxy = world.start().await;
    let mut client = connect(at(port)).await;
    reads(&mut client, "hi").await;
    assert_eq!(
        proxy.routes(&world).await["ports"][port.to_string()],
        app.deployment.to_string()
    );
    // More than any buffer on the way, and the end of it: what comes back is whole.
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let expected = sent.clone();
    let (mut from, mut to) = client.into_split();
    let mut sending = JoinSet::new();
    sending.spawn(async move {
        to.write_all(&sent).await.expect("it reads");
        to.shutdown().await.expect("it is told");
        to
    });
    let mut got = Vec::new();
    timeout(SOON, from.read_to_end(&mut got))
        .await
        .expect("in time")
        .expect("a good end");
    assert!(got == expected, "{} bytes of {}", got.len(), expected.len());
    comes_to(proxy.admin, "proxy_tcp_ended_total{reason=\"done\"}", 1.0).await;
    // A second one is activity as long as it is open.
    let mut client = connect(at(port)).await;
    echoes(&mut client, "hi").await;
    wait_until(SOON, "it counts", || async {
        (world.in_flight(app.deployment).await == Some(1)).then_some(())
    })
    .await;
    assert_eq!(count(&proxy, "proxy_tcp_connections").await, 1);
    // Its hosts are no place for HTTP.
    let answer = proxy.get("echo-default").await;
    assert_eq!(
        (answer.status.as_u16(), answer.problem().code.as_str()),
        (421, "OTHER_PROTOCOL")
    );
    drop(client);
    proxy.stop().await;
}

#[tokio::test]
async fn what_breaks_off_never_looks_like_an_end() {
    let mut world = World::new().await;
    world.configure("[proxy]\ntcp_idle_timeout_ms = 5000\ndrain_timeout_ms = 50");
    let (program, port) = (echoing("hi").await, free_port());
    app_at(&world, "echo", port, &[&program]).await;
    let proxy = world.start().await;
    let mut silent = connect(at(port)).await;
    reads(&mut silent, "hi").await;
    assert_eq!(ends(&mut silent).await, Err(ErrorKind::ConnectionReset));
    comes_to(proxy.admin, "proxy_tcp_ended_total{reason=\"idle\"}", 1.0).await;
    let mut client = connect(at(port)).await;
    reads(&mut client, "hi").await;
    // The program dies.
    drop(program);
    assert_eq!(ends(&mut client).await, Err(ErrorKind::ConnectionReset));
    // So does a connection to nobody.
    let mut nobody = connect(at(port)).await;
    assert_eq!(ends(&mut nobody).await, Err(ErrorKind::ConnectionReset));
    proxy.stop().await;
}

#[tokio::test]
async fn connections_wait_for_one_wake_and_no_more_of_them_than_may() {
    let mut world = World::new().await;
    let (program, port) = (echoing("up").await, free_port());
    let gate = Arc::new(Semaphore::new(0));
    let api = api(world.key.clone(), program.address, Arc::clone(&gate)).await;
    world.configure(&format!(
        "[api]\npublic_url = \"http://{}\"\n[proxy]\nheld_requests_max = 8",
        api.address
    ));
    let app = app_at(&world, "sleeper", port, &[]).await;
    world.sleep(app.deployment).await;
    let proxy = world.start().await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(connect(at(port)).await);
    }
    wait_until(SOON, "all are held", || async {
        (held(proxy.admin, &world.key, app).await == 8).then_some(())
    })
    .await;
    let mut ninth = connect(at(port)).await;
    assert_eq!(ends(&mut ninth).await, Err(ErrorKind::ConnectionReset));
    gate.add_permits(1);
    for client in &mut clients {
        reads(client, "up").await;
        echoes(client, "and running").await;
    }
    assert_eq!(api.requests(), 1);
    drop(clients);
    proxy.stop().await;
}

#[tokio::test]
async fn a_rollout_breaks_no_connection_and_waits_for_those_of_the_old_task() {
    let world = World::new().await;
    let (old, new, port) = (echoing("old").await, echoing("new").await, free_port());
    let app = app_at(&world, "rolling", port, &[]).await;
    let task = world.task(app.deployment, old.address).await;
    let proxy = world.start().await;
    let mut open = connect(at(port)).await;
    reads(&mut open, "old").await;
    world.task(app.deployment, new.address).await;
    world.unroute(task).await;
    let epoch = world.publish().await;
    let mut next = connect(at(port)).await;
    reads(&mut next, "new").await;
    echoes(&mut open, "still here").await;
    let (applied, drained) = world.acknowledged().await.expect("its row");
    assert!(applied >= epoch && drained < epoch, "{applied} {drained}");
    open.shutdown().await.expect("told");
    assert_eq!(ends(&mut open).await, Ok(Vec::new()));
    wait_until(SOON, "the old task has drained", || async {
        world
            .acknowledged()
            .await
            .filter(|(_, drained)| *drained >= epoch)
    })
    .await;
    // An environment without a port takes no more; what is open stays.
    give_port(&world, app, None).await;
    world.publish().await;
    wait_until(SOON, "the listener is closed", || async {
        TcpStream::connect(at(port)).await.err()
    })
    .await;
    echoes(&mut next, "still here").await;
    drop(next);
    proxy.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_of_and_opened_once_it_is_free() {
    let mut world = World::new().await;
    world.configure("[proxy]\nname = 'first'");
    let (program, port) = (echoing("hi").await, free_port());
    app_at(&world, "echo", port, &[&program]).await;
    let first = world.start().await;
    reads(&mut connect(at(port)).await, "hi").await;
    // Another address of this machine is as good as another machine.
    world.configure("[proxy]\nname = 'second'\nhost = '127.0.0.2'");
    let second = Running::start(&world.config()).await;
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], port));
    reads(&mut connect(elsewhere).await, "hi").await;
    world.configure("[proxy]\nname = 'third'");
    let third = Running::start(&world.config()).await;
    let why = wait_until(SOON, "its row tells", || async {
        let told: Option<String> =
            sqlx::query_scalar("SELECT ports_failed->>$1 FROM proxies WHERE name = 'third'")
                .bind(port.to_string())
                .fetch_optional(&world.pool)
                .await
                .expect("readable")
                .flatten();
        told
    })
    .await;
    assert!(why.contains("in use"), "{why}");
    assert_eq!(count(&third, "proxy_tcp_listeners_failed").await, 1);
    assert_eq!(third.routes(&world).await["ports_failed"][port.to_string()], why);
    first.stop().await;
    reads(&mut connect(at(port)).await, "hi").await;
    second.stop().await;
    third.stop().await;
}

/// A port costs one file, all ports at most half of those that a process may open, and what is beyond that is told of: no
/// listener is without a file for those that come.
#[tokio::test]
async fn more_ports_than_files_stop_no_other_listener() {
    let world = World::new().await;
    let (program, origin) = (echoing("hi").await, Origin::saying("served").await);
    let mut ports = BTreeSet::new();
    while ports.len() < 84 {
        ports.insert(free_port());
    }
    let deployments = apps_at(&world, &ports).await;
    world.app_at("web", &[&origin]).await;
    let site = world.site("narrow", "");
    let process = site.start_within(60, 160);
    site.until_ready().await;
    assert_eq!(process.open_files_max(), 160);
    let failed = async |count: usize| {
        wait_until(SOON, "the listeners that may be are open", || async {
            let routes = routes(site.admin, &world.key).await;
            let failed = routes["ports_failed"].as_object().expect("a map").clone();
            (failed.len() == count).then_some(failed)
        })
        .await
    };
    let beyond = failed(4).await;
    assert!(
        beyond
            .values()
            .all(|why| why.as_str().expect("words").contains("80 listeners")),
        "{beyond:?}"
    );
    let host = full("web-default");
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    assert!(raw(site.address, request.as_bytes()).await.ends_with("served"));
    // What one gives up another one gets.
    let (first, (next, deployment)) = (
        ports.first().expect("many"),
        deployments.iter().nth(80).expect("as many"),
    );
    drop(TcpStream::connect(at(*first)).await.expect("it listens"));
    assert!(beyond.contains_key(&next.to_string()), "{beyond:?}");
    sqlx::query("UPDATE environments SET public_port = NULL WHERE public_port = $1")
        .bind(i32::from(*first))
        .execute(&world.pool)
        .await
        .expect("updated");
    world.task(*deployment, program.address).await;
    world.publish().await;
    let mut client = connect(at(*next)).await;
    reads(&mut client, "hi").await;
    failed(3).await;
    drop(client);
    process.terminate();
    process.ended().await;
}

#[tokio::test]
async fn load_balancers_say_whom_they_bring_and_clients_have_a_limit() {
    let mut world = World::new().await;
    world.configure(
        "[proxy]\ntcp_proxy_protocol = true\ntrusted_peers = ['127.0.0.1']\n[proxy.limits]\nconnections_per_client_max = 1",
    );
    let (program, port) = (echoing("hi").await, free_port());
    app_at(&world, "echo", port, &[&program]).await;
    let proxy = world.start().await;
    let brought = async |client: u8| {
        let mut stream = connect(at(port)).await;
        let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
        let addresses = [203, 0, 113, client, 192, 0, 2, 1, 0x10, 0xe1, 0, 80];
        let bytes = [&header[..], &addresses, b"words"].concat();
        stream.write_all(&bytes).await.expect("it reads");
        stream
    };
    let mut first = brought(1).await;
    // Not a byte of the header reaches the program.
    reads(&mut first, "hiwords").await;
    assert!(ends(&mut brought(1).await).await.is_ok_and(|got| got.is_empty()));
    reads(&mut brought(2).await, "hiwords").await;
    drop(first);
    proxy.stop().await;
}

/// What listens passes from process to process: `plain` and TLS too.
#[tokio::test]
async fn a_successor_takes_over_every_listener() {
    let world = World::new().await;
    let (program, port, tls) = (echoing("hi").await, free_port(), free_port());
    app_at(&world, "echo", port, &[&program]).await;
    let path = world.directory.path().join("handover");
    let site: Site = world.site(
        "steady",
        &format!(
            "handover_path = \"{}\"\n[proxy.tls]\nenabled = true\nport = {tls}\n",
            path.display()
        ),
    );
    let first = site.ready().await;
    let mut open = connect(at(port)).await;
    reads(&mut open, "hi").await;
    // Nobody may be refused at any moment, at either of them.
    let (stop, mut visitors) = (Arc::new(Semaphore::new(0)), JoinSet::new());
    for port in [port, tls] {
        let stop = Arc::clone(&stop);
        visitors.spawn(async move {
            let mut visits = 0;
            while stop.available_permits() == 0 {
                if port == tls {
                    let secure = Secure::connect(at(port), "a.zectre.localhost", &[]).await;
                    assert!(!secure.names().is_empty());
                } else {
                    let mut stream = TcpStream::connect(at(port)).await.expect("it listens");
                    reads(&mut stream, "hi").await;
                }
                visits += 1;
            }
            visits
        });
    }
    let second = site.start();
    wait_until(SOON, "it has taken over", || async {
        (site.said("another process has taken over") == 1).then_some(())
    })
    .await;
    reads(&mut connect(at(port)).await, "hi").await;
    echoes(&mut open, "still here").await;
    stop.add_permits(1);
    while let Some(visits) = visitors.join_next().await {
        assert!(visits.expect("nobody was refused") > 0);
    }
    drop(open);
    first.ended().await;
    reads(&mut connect(at(port)).await, "hi").await;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        full("none")
    );
    assert!(
        raw(site.address, request.as_bytes())
            .await
            .starts_with("HTTP/1.1 404")
    );
    second.terminate();
    second.ended().await;
}

async fn count(proxy: &Running, series: &str) -> u64 {
    metric(proxy.admin, series).await as u64
}

impl Running {
    async fn routes(&self, world: &World) -> serde_json::Value {
        routes(self.admin, &world.key).await
    }
}
