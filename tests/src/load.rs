//! The counting client: kept connections that ask at a steady pace, repeat nothing, and remember what failed.
//!
//! It speaks HTTP/1.1 over bare sockets, because client libraries quietly repeat requests on connections that closed.

use crate::Ledger;
use std::{
    collections::BTreeSet,
    fmt,
    io::{Error, ErrorKind},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

/// From one request of a connection to the next: with all of a platform's daemons on two cores, a machine that has no
/// time left tells about the machine only.
const PACE: Duration = Duration::from_millis(250);
/// No answer in this time is a failed request.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(25);

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An idempotent one, without a body.
    Get,
    /// One that takes the origin a while.
    SlowGet,
    /// One with a body that must be done once.
    Post,
}

/// A request that was not answered with 200.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The number of the connection.
    pub connection: usize,
    /// The proxy that was asked.
    pub proxy: SocketAddr,
    /// What was asked.
    pub kind: Kind,
    /// The POST's id, or the GET's path.
    pub id: String,
    /// When it was sent.
    pub began: Instant,
    /// How long it took.
    pub took: Duration,
    /// The code of the problem that came instead, where one came.
    pub code: Option<String>,
    /// What came instead.
    pub why: String,
}

/// What the connections have seen.
#[derive(Debug, Default)]
pub struct Tally {
    /// GETs answered with 200.
    pub gets: usize,
    /// POSTs answered with 200.
    pub posts: BTreeSet<String>,
    /// The rest.
    pub failures: Vec<Failure>,
    /// The longest that a successful request took.
    pub slowest: Duration,
}

/// Load under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    connections: JoinSet<Tally>,
}

impl Load {
    /// `count` connections over `proxies`, all to the application `host`.
    pub fn start(count: usize, proxies: &[SocketAddr], host: &str) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut connections = JoinSet::new();
        for number in 0..count {
            let client = Client {
                number,
                proxy: proxies[number % proxies.len()],
                host: format!("{host}.zectre.localhost"),
                stop: Arc::clone(&stop),
                answered: Arc::clone(&answered),
                tally: Tally::default(),
            };
            connections.spawn(client.run());
        }
        Self {
            stop,
            answered,
            connections,
        }
    }

    /// Waits until so many more requests were answered with 200.
    pub async fn more(&self, count: usize) {
        let enough = self.answered.load(Relaxed) + count;
        zectre_testkit::wait_until(Duration::from_secs(60), "requests are answered", async || {
            (self.answered.load(Relaxed) >= enough).then_some(())
        })
        .await;
    }

    /// Lets the last requests end; what all connections have seen.
    pub async fn finish(self) -> Tally {
        self.stop.store(true, Relaxed);
        let mut sum = Tally::default();
        for tally in self.connections.join_all().await {
            sum.gets += tally.gets;
            sum.posts.extend(tally.posts);
            sum.failures.extend(tally.failures);
            sum.slowest = sum.slowest.max(tally.slowest);
        }
        sum
    }
}

impl Tally {
    /// Panics, showing them, if there are failures.
    pub fn expect_none_failed(&self) {
        assert!(
            self.failures.is_empty(),
            "{} of {} requests failed:\n{}",
            self.failures.len(),
            self.gets + self.posts.len() + self.failures.len(),
            self.failures
                .iter()
                .take(20)
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        );
    }

    /// Panics if a request was answered, and later than this.
    pub fn expect_answers_within(&self, longest: Duration) {
        let slowest = self.slowest;
        assert!(
            slowest <= longest,
            "a request took {slowest:?}, more than {longest:?}"
        );
    }

    /// Panics if the origin did something twice, or didn't do what it said it had done.
    pub fn expect_each_post_once(&self, ledger: &Ledger) {
        let repeated = ledger.repeated();
        assert!(repeated.is_empty(), "POSTs were repeated: {repeated:?}");
        let missing = ledger.missing(&self.posts);
        assert!(
            missing.is_empty(),
            "POSTs were answered and not done: {missing:?}"
        );
        assert!(!self.posts.is_empty(), "there were POSTs");
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} {} through {} after {:?}: {}",
            self.kind, self.id, self.proxy, self.took, self.why
        )
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gets, posts, failed) = (self.gets, self.posts.len(), self.failures.len());
        write!(
            f,
            "{gets} GETs and {posts} POSTs answered, {failed} failed, the slowest took {:?}",
            self.slowest
        )
    }
}

struct Client {
    number: usize,
    proxy: SocketAddr,
    host: String,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    tally: Tally,
}

impl Client {
    async fn run(mut self) -> Tally {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connection = None;
        let mut number = 0;
        while !self.stop.load(Relaxed) {
            pace.tick().await;
            number += 1;
            let kind = match number % 8 {
                0 => Kind::SlowGet,
                odd if odd % 2 == 1 => Kind::Post,
                _ => Kind::Get,
            };
            let id = match kind {
                Kind::Get => "/".to_owned(),
                Kind::SlowGet => "/slow".to_owned(),
                Kind::Post => format!("{}-{}-{number}", self.number, std::process::id()),
            };
            let began = Instant::now();
            let asked = timeout(ANSWER_DEADLINE, self.ask(&mut connection, kind, &id)).await;
            let (code, why) = match asked {
                Ok(Ok((200, _))) => {
                    self.count(kind, id, began.elapsed());
                    continue;
                }
                Ok(Ok((status, body))) => (code(&body), format!("{status} {body}")),
                Ok(Err(error)) => (None, error.to_string()),
                Err(_) => (None, "no answer".into()),
            };
            // Whatever is left of the answer must not be taken for the next one.
            connection = None;
            self.tally.failures.push(Failure {
                connection: self.number,
                proxy: self.proxy,
                kind,
                id,
                began,
                took: began.elapsed(),
                code,
                why,
            });
        }
        self.tally
    }

    fn count(&mut self, kind: Kind, id: String, took: Duration) {
        match kind {
            Kind::Post => drop(self.tally.posts.insert(id)),
            Kind::Get | Kind::SlowGet => self.tally.gets += 1,
        }
        self.tally.slowest = self.tally.slowest.max(took);
        self.answered.fetch_add(1, Relaxed);
    }

    async fn ask(
        &self,
        connection: &mut Option<BufReader<TcpStream>>,
        kind: Kind,
        id: &str,
    ) -> Result<(u16, String), Error> {
        let host = &self.host;
        let request = match kind {
            Kind::Get | Kind::SlowGet => format!("GET {id} HTTP/1.1\r\nhost: {host}\r\n\r\n"),
            Kind::Post => {
                format!(
                    "POST /count HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n{id}",
                    id.len()
                )
            }
        };
        let stream = match connection {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.proxy).await?;
                stream.set_nodelay(true)?;
                connection.insert(BufReader::new(stream))
            }
        };
        stream.get_mut().write_all(request.as_bytes()).await?;
        let (status, body, keep) = read_answer(stream).await?;
        if !keep {
            // The proxy says that this connection ends; the next request needs another one.
            *connection = None;
        }
        Ok((status, body))
    }
}

/// The code of a problem.
fn code(body: &str) -> Option<String> {
    let problem: serde_json::Value = serde_json::from_str(body).ok()?;
    problem["code"].as_str().map(str::to_owned)
}

/// Status, body, and whether the connection can be used again.
async fn read_answer(stream: &mut BufReader<TcpStream>) -> Result<(u16, String, bool), Error> {
    let nonsense = |what: &str| Error::new(ErrorKind::InvalidData, format!("not an answer: {what}"));
    let (mut status, mut length, mut keep) = (None, None, true);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if status.is_none() {
            let code = line.split(' ').nth(1).and_then(|code| code.parse().ok());
            status = Some(code.ok_or_else(|| nonsense(&line))?);
        } else if let Some(value) = line.strip_prefix("content-length:") {
            length = Some(value.trim().parse().map_err(|_| nonsense(&line))?);
        } else if line == "connection: close" {
            keep = false;
        }
    }
    let mut body = vec![0; length.ok_or_else(|| nonsense("no content-length"))?];
    stream.read_exact(&mut body).await?;
    let status = status.ok_or_else(|| nonsense("no status"))?;
    Ok((status, String::from_utf8_lossy(&body).into_owned(), keep))
}
