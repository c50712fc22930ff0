//! Calls to the API: people who read, one after the other, and agents that append at their own pace.

use crate::sample::Samples;
use reqwest::Client;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use uuid::Uuid;
use zectre_common::{
    id::NodeId,
    time::Time,
    wire::log::{AppendLogsRequest, LogLine, Stream},
};
use zectre_service::{
    key::{NodeKey, ServiceKey, node_key},
    token::{self, name},
};

/// How long the same is asked for at most: what is slow is known to be so after that.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Calls of each client that come before and count for nothing: rows and plans that nobody has asked for since the start are not at hand.
pub(super) const WARM_UP: usize = 50;

/// A question.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) who: &'static str,
    pub(super) key: &'static str,
    pub(super) path: String,
}

impl Call {
    /// Its path with words in the place of ids.
    pub(super) fn shown(&self) -> String {
        let part = |part: &str| {
            if Uuid::try_parse(part).is_ok() {
                "…".to_owned()
            } else {
                part.to_owned()
            }
        };
        let parts = self.path.split_inclusive(['/', '?', '=']);
        let shown = parts.map(|with_end| {
            let (text, end) = with_end.split_at(with_end.trim_end_matches(['/', '?', '=']).len());
            part(text) + end
        });
        shown.collect()
    }

    async fn once(&self, client: &Client, url: &str) -> Duration {
        let began = Instant::now();
        let answer = client
            .get(format!("{url}/api/v1{}", self.path))
            .header("x-api-key", self.key)
            .send()
            .await
            .expect("it answers");
        let status = answer.status();
        let body = answer.bytes().await.expect("the whole answer");
        let took = began.elapsed();
        assert_eq!(
            status.as_u16(),
            200,
            "{}: {}",
            self.path,
            String::from_utf8_lossy(&body)
        );
        took
    }

    /// Asked so often by so many at once, each one after the other, once all is warm.
    pub(super) async fn measure(
        &self,
        client: &Client,
        url: &str,
        (clients, rounds): (usize, usize),
    ) -> Samples {
        let mut asking = JoinSet::new();
        for _ in 0..clients {
            let (call, client, url) = (self.clone(), client.clone(), url.to_owned());
            asking.spawn(async move {
                let mut times = Vec::with_capacity(rounds / clients);
                for _ in 0..WARM_UP {
                    call.once(&client, &url).await;
                }
                let began = Instant::now();
                while times.len() < rounds / clients && began.elapsed() < TIME_MAX {
                    times.push(call.once(&client, &url).await);
                }
                times
            });
        }
        let mut samples = Samples::default();
        while let Some(times) = asking.join_next().await {
            for time in times.expect("nobody panics") {
                samples.push(time);
            }
        }
        samples
    }
}

/// How much agents send: each a batch of so many lines, so often.
struct Pace {
    lines: usize,
    every: Duration,
    batches: usize,
}

const PACES: [Pace; 2] = [
    // A busy service on each of 50 nodes: 10,000 lines a second.
    Pace {
        lines: 100,
        every: Duration::from_millis(500),
        batches: 60,
    },
    // What an agent sends at most while it catches up: 20,000 lines a second, all nodes together.
    Pace {
        lines: 1_000,
        every: Duration::from_millis(2_500),
        batches: 12,
    },
];

/// Agents, each of one node and printing for one of its tasks.
pub(super) struct Load {
    agents: Vec<Agent>,
}

#[derive(Clone)]
struct Agent {
    task: Uuid,
    node: NodeId,
    key: NodeKey,
}

impl Load {
    pub(super) fn of(printing: &[(Uuid, NodeId)], key: &ServiceKey) -> Self {
        let agents = printing.iter().map(|(task, node)| Agent {
            task: *task,
            node: *node,
            key: node_key(key, *node),
        });
        Self {
            agents: agents.collect(),
        }
    }

    /// At every pace; what it took, as sentences.
    pub(super) async fn run(&self, url: &str) -> String {
        let mut said = Vec::new();
        // What is stored already is read over: sequences go on behind it.
        let mut from = 10_000_000;
        for pace in PACES {
            let samples = self.at(&pace, url, from).await;
            from += (pace.lines * pace.batches) as u64;
            let a_second = pace.lines as f64 * self.agents.len() as f64 / pace.every.as_secs_f64();
            said.push(format!(
                "{} agents, each a batch of {} lines every {} ms ({a_second:.0} lines/s, {} batches): `POST /tasks/…/logs` p50 {:.2} ms, \
                 **p99 {:.2} ms**, most {:.2} ms",
                self.agents.len(),
                pace.lines,
                pace.every.as_millis(),
                samples.len(),
                samples.percentile_ms(50),
                samples.percentile_ms(99),
                samples.percentile_ms(100)
            ));
        }
        said.join("\n\n")
    }

    /// A few batches of one agent.
    pub(super) async fn once(&self, url: &str) {
        let agent = &self.agents[0];
        for batch in 0..12 {
            let lines = lines(20_000_000 + batch * 100, 100);
            agent.send(&Client::new(), url, lines).await;
        }
    }

    async fn at(&self, pace: &Pace, url: &str, from: u64) -> Samples {
        let mut printing = JoinSet::new();
        // The agents' beginnings are spread over one pause: they don't know of each other.
        let begin = tokio::time::Instant::now() + Duration::from_millis(100);
        for (place, agent) in self.agents.iter().enumerate() {
            let (agent, url, every) = (agent.clone(), url.to_owned(), pace.every);
            let (size, batches) = (pace.lines, pace.batches);
            let first = begin + pace.every.mul_f64(place as f64 / self.agents.len() as f64);
            printing.spawn(async move {
                // Connections of its own, as an agent has.
                let client = Client::new();
                let mut ticks = tokio::time::interval_at(first, every);
                let mut times = Vec::with_capacity(batches);
                for batch in 0..batches {
                    ticks.tick().await;
                    let lines = lines(from + (batch * size) as u64, size);
                    times.push(agent.send(&client, &url, lines).await);
                }
                times
            });
        }
        let mut samples = Samples::default();
        while let Some(times) = printing.join_next().await {
            for time in times.expect("nobody panics") {
                samples.push(time);
            }
        }
        samples
    }
}

impl Agent {
    async fn send(&self, client: &Client, url: &str, lines: Vec<LogLine>) -> Duration {
        let token = token::mint_node(&self.key, self.node, name::AGENT, name::API);
        let request = client
            .post(format!("{url}/api/v1/tasks/{}/logs", self.task))
            .bearer_auth(token)
            .json(&AppendLogsRequest { lines });
        let began = Instant::now();
        let answer = request.send().await.expect("it answers");
        let status = answer.status();
        let body = answer.text().await.expect("the whole answer");
        let took = began.elapsed();
        assert_eq!(status.as_u16(), 204, "{body}");
        took
    }
}

fn lines(from: u64, count: usize) -> Vec<LogLine> {
    let line = |seq| LogLine {
        seq,
        time: Time::now(),
        stream: Stream::Stdout,
        message: format!(
            "{seq:010} GET /things/{} 200 in {} ms {:.<50}",
            seq * 7,
            seq % 900,
            ""
        ),
    };
    (from..from + count as u64).map(line).collect()
}
