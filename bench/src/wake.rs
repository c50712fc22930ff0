//! wake: from a request for a sleeping deployment to the first byte of its answer, beside a bare spawn of the same
//! binary. Goals: p50 ≤ 5 ms, p99 ≤ 25 ms; 1,000 first requests at once: one start, no 5xx.

use crate::{
    native::spawn_to_first_byte,
    phases::PhaseTimes,
    platform::{Bench, DEADLINE, Subject},
    report::{Report, Row},
    sample::Samples,
};
use serde_json::json;
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};
use zectre_e2e::App;

const ROUNDS: usize = 200;
const CROWD: usize = 1_000;

/// Measures each subject, then the crowd.
pub(crate) async fn run() -> Report {
    let bench = Bench::start().await;
    let mut report = Report::new(
        "wake",
        "GET through the proxy for a sleeping deployment, until the first byte",
        "goal: p50 ≤ 5 ms, p99 ≤ 25 ms; 1,000 first requests at once: one start, no 5xx",
    );
    for (index, subject) in bench.subjects.iter().enumerate() {
        let (app, id) = bench
            .deploy(&format!("wake-{index}"), subject, Bench::request())
            .await;
        let (mut ours, mut bare) = (Samples::default(), Samples::default());
        let mut phases = PhaseTimes::default();
        for _ in 0..ROUNDS {
            bare.push(spawn_to_first_byte(&subject.program));
            put_to_sleep(&bench, &app, &id).await;
            let (port, host) = (bench.single.settings().proxy_port, app.subdomain.clone());
            let woken = tokio::task::spawn_blocking(move || wake(port, &host))
                .await
                .expect("it does not panic");
            let (time, timing) = woken.expect("a woken program answers 200");
            ours.push(time);
            phases.push_header(&timing);
        }
        report.rows.push(Row::new(subject.name, &ours, &bare));
        report.note(format!(
            "{}: `Server-Timing`, p50: {}",
            subject.name,
            phases.told()
        ));
        report.note(crowd(&bench, &app, &id, subject).await);
    }
    report
}

/// Asks for sleep and waits until the proxy no longer has a task for it.
async fn put_to_sleep(bench: &Bench, app: &App, id: &str) {
    bench
        .http
        .post(&format!("/deployments/{id}/sleep"), json!({}))
        .await
        .expect_ok();
    zectre_testkit::wait_until(DEADLINE, "it sleeps", async || {
        let asleep = app.deployment(id).await["health"] == "asleep";
        let live = app
            .tasks(id, &["pending", "starting", "running", "stopping"])
            .await;
        (asleep && live.is_empty()).then_some(())
    })
    .await;
}

/// One request on a fresh connection: the time to the first byte of a 200, and its `Server-Timing`.
fn wake(proxy_port: u16, host: &str) -> io::Result<(Duration, String)> {
    let started = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", proxy_port))?;
    stream.set_nodelay(true)?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nhost: {host}.zectre.localhost\r\nconnection: close\r\n\r\n"
    )?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    let time = started.elapsed();
    let mut answer = first.to_vec();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    if !answer.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(answer.into_owned()));
    }
    let timing = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("server-timing")
            .then(|| value.to_owned())
    });
    Ok((time, timing.unwrap_or_default()))
}

/// Many first requests at once.
async fn crowd(bench: &Bench, app: &App, id: &str, subject: &Subject) -> String {
    const ALL: &[&str] = &["pending", "starting", "running", "stopping", "stopped", "failed"];
    put_to_sleep(bench, app, id).await;
    let total = async || {
        let page = bench
            .http
            .get(&format!("/deployments/{id}/tasks?page_size=1"))
            .await
            .json();
        page["total"]
            .as_u64()
            .unwrap_or(app.tasks(id, ALL).await.len() as u64)
    };
    let (before, started) = (total().await, Instant::now());
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..CROWD {
        let (http, host) = (bench.http.clone(), app.subdomain.clone());
        crowd.spawn(async move { http.app(&host, "/").await.status.as_u16() });
    }
    let statuses = crowd.join_all().await;
    let failed = statuses.iter().filter(|status| **status != 200).count();
    format!(
        "{}: {CROWD} first requests at once: {} start(s), {failed} not answered with 200, all within {:.0} ms",
        subject.name,
        total().await - before,
        started.elapsed().as_secs_f64() * 1_000.0
    )
}
