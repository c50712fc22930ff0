//! proxy: the real `zectre-proxy` over a real PostgreSQL beside nginx and haproxy, in interleaved rounds, with the same
//! origin, cores and clients. Goals: at least nginx's requests a second per core, p99 at most 1.2 times its, at most
//! 30 µs added at p50, at most 32 MiB resident with 1,000 connections; 100,000 hosts cost a request no more than 10.
//!
//! CPU per request (user and system time of all processes of a proxy over the requests answered) is what other load on
//! the machine disturbs least; a core's requests a second are its inverse.

mod load;
mod peers;
mod store;

use crate::{options::Options, postgres::Postgres, report::Report};
use load::{Load, Told};
use peers::Server;
use sqlx::PgPool;
use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};
use zectre_common::db;
use zectre_testkit::wait_until;

/// Connections that are open and idle while memory is looked at.
const IDLE: usize = 1_000;
/// What has just been answered is not idle yet: a server may keep what it needs for a next request for a while.
const IDLE_FOR: Duration = Duration::from_secs(1);
const HOSTS: i64 = 100_000;
/// A new routing epoch so often, for the last part.
const CHANGE_EVERY: Duration = Duration::from_millis(100);
const APPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// What a round showed of one server.
struct Seen {
    told: Told,
    cpu_us: f64,
}

struct Bench<'b> {
    options: &'b Options,
    directory: &'b Path,
}

/// All parts.
pub(crate) async fn run(options: &Options) -> Report {
    let mut report = Report::new(
        "proxy",
        "interleaved rounds with the same origin (nginx, static), cores and clients; medians",
        "goals: CPU per request ≤ 1.0 × nginx (requests/s per core ≥ 1.0 ×), p99 ≤ 1.2 ×, ≤ 30 µs added at p50, \
         ≤ 32 MiB at 1,000 connections, no cost from 10 to 100,000 hosts",
    );
    let directory = Postgres::directory();
    let postgres = Postgres::start(directory.path()).await;
    let pool = db::connect(&postgres.url().into(), "bench", 4)
        .await
        .expect("the server runs");
    db::migrate(&pool).await.expect("an empty database");
    for (file, text) in [
        (load::SCRIPT_FILE, load::SCRIPT),
        (load::POST_FILE, load::POST),
        (load::OPENSSL_FILE, load::OPENSSL),
    ] {
        fs::write(directory.path().join(file), text).expect("the directory is ours");
    }
    peers::certificate(directory.path());
    let origin = peers::origin(directory.path()).await;
    store::hello(&pool, origin.port).await;
    let servers = [
        peers::ours(directory.path(), &postgres.url()).await,
        peers::nginx(directory.path(), origin.port).await,
        peers::haproxy(directory.path(), origin.port).await,
    ];
    is_applied(&pool).await;
    let bench = Bench {
        options,
        directory: directory.path(),
    };
    memory(&servers, &mut report).await;
    bench.side_by_side(&servers, &mut report);
    bench.added(&origin, &servers, &mut report);
    bench.hosts(&pool, &servers[0], &mut report).await;
    // Last: it starts one more proxy, for whose word on the routes nobody need wait before.
    bench.posts(&pool, &servers, &postgres.url(), &mut report).await;
    report
}

async fn is_applied(pool: &PgPool) -> Duration {
    let (began, epoch) = (Instant::now(), store::raise(pool).await);
    wait_until(APPLY_TIMEOUT, "the proxy routes by the epoch", async || {
        (store::applied(pool).await >= epoch).then_some(())
    })
    .await;
    began.elapsed()
}

impl Bench<'_> {
    fn round(&self, load: &Load, server: &Server) -> Seen {
        let before = server.cpu();
        let told = load.run(load.port(server), self.options.round_secs, self.directory);
        let cpu_us = (server.cpu() - before) * 1e6 / told.requests;
        Seen { told, cpu_us }
    }

    fn command(&self, load: &Load) -> String {
        let command = load.command("PORT", self.options.round_secs, Path::new(""));
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    /// The usual kinds of load.
    fn side_by_side(&self, servers: &[Server; 3], report: &mut Report) {
        let http1 = |connections, path| Load::Http1(connections, path);
        let loads = [
            ("30 bytes, 64 connections", http1(64, "/small")),
            ("64 KiB, 64 connections", http1(64, "/64k")),
            ("10 MiB, 8 connections", http1(8, "/10m")),
            ("30 bytes, HTTP/2, 16 × 16 streams", Load::Http2(16)),
            ("30 bytes, TLS, 64 connections", Load::Https1(64, "/small")),
            ("64 KiB, TLS, 64 connections", Load::Https1(64, "/64k")),
            ("10 MiB, TLS, 8 connections", Load::Https1(8, "/10m")),
            ("30 bytes, HTTP/2 over TLS, 16 × 16 streams", Load::Https2(16)),
        ];
        self.compare(&loads, &servers.each_ref(), report);
        report.note(
            "Over TLS: 1.3 with TLS_AES_128_GCM_SHA256 (by OPENSSL_CONF) and one P-256 certificate.".into(),
        );
    }

    /// What may not be sent twice; with ours once more, where each such request has a connection of its own.
    async fn posts(&self, pool: &PgPool, servers: &[Server; 3], database: &str, report: &mut Report) {
        let [ours, nginx, haproxy] = servers;
        let own = peers::ours_without_reuse(self.directory, database).await;
        is_applied(pool).await;
        let loads = [
            ("POST of 30 bytes, 64 connections", Load::Post(64, "/small")),
            ("POST of 30 bytes, one connection", Load::Post(1, "/small")),
        ];
        self.compare(&loads, &[ours, nginx, haproxy, &own], report);
    }

    /// Each kind of load: the servers (nginx is the second one) in turn, again and again, in an order that turns around.
    fn compare(&self, loads: &[(&str, Load)], servers: &[&Server], report: &mut Report) {
        let mut table =
            "| load | proxy | CPU per request | × nginx | requests/s | × nginx | p50 | p99 | × nginx |\n\
                         |---|---|---|---|---|---|---|---|---|"
                .to_owned();
        let mut commands = Vec::new();
        for (name, load) in loads {
            eprintln!("proxy: {name} …");
            commands.push(format!("`{}`", self.command(load)));
            let mut seen: Vec<Vec<Seen>> = servers.iter().map(|_| Vec::new()).collect();
            for round in 0..self.options.rounds {
                for turn in 0..servers.len() {
                    let at = if round % 2 == 0 {
                        turn
                    } else {
                        servers.len() - 1 - turn
                    };
                    seen[at].push(self.round(load, servers[at]));
                }
            }
            let of = |at: usize, figure: fn(&Seen) -> f64| median(seen[at].iter().map(figure));
            for (at, server) in servers.iter().enumerate() {
                let ratio = |figure: fn(&Seen) -> f64| of(at, figure) / of(1, figure);
                let _ = write!(
                    table,
                    "\n| {name} | {} | {:.1} µs | {:.2} | {:.0} | {:.2} | {} | {} | {} |",
                    server.name,
                    of(at, |s| s.cpu_us),
                    ratio(|s| s.cpu_us),
                    of(at, |s| s.told.per_sec),
                    ratio(|s| s.told.per_sec),
                    shown(of(at, |s| s.told.p50_us)),
                    shown(of(at, |s| s.told.p99_us)),
                    times(ratio(|s| s.told.p99_us)),
                );
            }
        }
        report.note(table);
        report.note(format!(
            "{} rounds of {} s each. Commands: {}.",
            self.options.rounds,
            self.options.round_secs,
            commands.join(", ")
        ));
    }

    /// One request at a time: what a proxy adds to the origin.
    fn added(&self, origin: &Server, servers: &[Server; 3], report: &mut Report) {
        let load = Load::Http1(1, "/small");
        let mut times: [Vec<f64>; 4] = Default::default();
        for _ in 0..self.options.rounds {
            for (at, server) in std::iter::once(origin).chain(servers).enumerate() {
                times[at].push(self.round(&load, server).told.p50_us);
            }
        }
        let [bare, ours, nginx, haproxy] = times.map(|times| median(times.into_iter()));
        report.note(format!(
            "One request at a time (`{}`), p50: the origin alone {bare:.0} µs; added by ours {:.0} µs, by nginx {:.0} µs, by haproxy {:.0} µs.",
            self.command(&load),
            ours - bare,
            nginx - bare,
            haproxy - bare
        ));
    }

    /// Few hosts and many, then many with a change of the table every 100 ms.
    async fn hosts(&self, pool: &PgPool, ours: &Server, report: &mut Report) {
        let mut shown = Vec::new();
        for count in [20, HOSTS] {
            let domains = store::hosts(pool, count).await;
            let applied = is_applied(pool).await;
            let load = Load::Hosts(64, domains);
            let seen: Vec<Seen> = (0..self.options.rounds)
                .map(|_| self.round(&load, ours))
                .collect();
            let cpu_us = median(seen.iter().map(|seen| seen.cpu_us));
            let p99_us = median(seen.iter().map(|seen| seen.told.p99_us));
            shown.push(format!(
                "{count} hosts: {cpu_us:.1} µs CPU per request, p99 {:.1} ms, a change applied after {:.0} ms",
                p99_us / 1e3,
                applied.as_secs_f64() * 1e3
            ));
            if count == HOSTS {
                let changed = self.while_changing(pool, ours, &load).await;
                shown.push(changed);
            }
        }
        report.note(format!("A host drawn for each request. {}.", shown.join("; ")));
    }

    async fn while_changing(&self, pool: &PgPool, ours: &Server, load: &Load) -> String {
        let changing = async {
            let mut ticks = tokio::time::interval(CHANGE_EVERY);
            loop {
                ticks.tick().await;
                store::raise(pool).await;
            }
        };
        let (before, began) = (ours.cpu(), store::applied(pool).await);
        let (load, secs) = (load.clone(), self.options.round_secs * 2);
        let (port, directory) = (ours.port, self.directory.to_owned());
        let loading = tokio::task::spawn_blocking(move || load.run(port, secs, &directory));
        let told = tokio::select! {
            told = loading => told.expect("the load program works"),
            () = changing => unreachable!("it changes for ever"),
        };
        let cpu_us = (ours.cpu() - before) * 1e6 / told.requests;
        format!(
            "with a change every {} ms: {cpu_us:.1} µs, p99 {:.1} ms, epoch {} → {} in {secs} s",
            CHANGE_EVERY.as_millis(),
            told.p99_us / 1e3,
            began,
            store::applied(pool).await
        )
    }
}

/// Memory at rest, and with idle connections that each have had an answer.
async fn memory(servers: &[Server; 3], report: &mut Report) {
    let mut shown = Vec::new();
    for server in servers {
        let rest = server.resident_mib();
        let open: Vec<TcpStream> = (0..IDLE).map(|_| visit(server.port)).collect();
        let at_once = server.resident_mib();
        tokio::time::sleep(IDLE_FOR).await;
        shown.push(format!(
            "{} {rest:.1} MiB at rest, {at_once:.1} MiB with them, {:.1} MiB a second later",
            server.name,
            server.resident_mib()
        ));
        drop(open);
    }
    report.note(format!(
        "{IDLE} idle connections, each after one answer: {}.",
        shown.join("; ")
    ));
}

fn visit(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    write!(stream, "GET /small HTTP/1.1\r\nhost: {}\r\n\r\n", store::HOST).expect("it reads");
    let mut answer = Vec::new();
    while !answer.ends_with(b"answer!") {
        let mut bytes = [0; 1_024];
        let count = stream.read(&mut bytes).expect("it answers");
        assert!(count > 0, "closed after {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&bytes[..count]);
    }
    stream
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = figures.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Not every load program tells times.
fn times(ratio: f64) -> String {
    if ratio.is_nan() {
        "–".into()
    } else {
        format!("{ratio:.2}")
    }
}

fn shown(us: f64) -> String {
    if us.is_nan() {
        "–".into()
    } else {
        format!("{:.2} ms", us / 1e3)
    }
}
