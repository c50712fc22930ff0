//! The access log: one line of JSON a request, written when the request has ended, whichever way it did.
//!
//! A request fills in an [`Entry`] on its way and drops it at its end; what is to be written goes into a bounded queue, and
//! a thread of its own writes it. A disk or a pipe that is slow so costs lines, which are counted, and never a request.

mod line;
mod logged;
mod record;
mod writer;

pub use logged::Logged;
pub use writer::Writer;

use crate::{
    ingress::{Refusal, body::Progress, client::Client},
    live::Traffic,
    metrics::LogMetrics,
};
use http::{HeaderValue, Method, Request, StatusCode, header};
use record::{Record, Wake};
use std::{
    io,
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use zectre_common::{config::AccessLogConfig, id::TaskId, time::Time, wire::task::Phases};
use zectre_service::dice::roll;

/// What stands for the status of a request whose client left before it was told one; nginx made it customary.
const CLIENT_GONE: u16 = 499;

/// Where requests are written down; nowhere, when that is not wanted.
#[derive(Debug, Default)]
pub struct AccessLog(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    queue: mpsc::Sender<writer::Message>,
    metrics: LogMetrics,
    /// Of 2³² requests so many are written.
    sample: u64,
    slow: Option<Duration>,
    query: bool,
    /// The proxy has stopped waiting for requests.
    cut: CancellationToken,
}

impl AccessLog {
    /// Opens it; the second one writes, and is to be run. `cut` is when the proxy ends what is under way.
    pub fn open(
        config: &AccessLogConfig,
        metrics: LogMetrics,
        cut: CancellationToken,
    ) -> io::Result<(Self, Option<Writer>)> {
        if !config.enabled {
            return Ok((Self::default(), None));
        }
        let (queue, writer) = writer::open(&config.target, config.queue_lines_max, metrics.clone())?;
        let shared = Shared {
            queue,
            metrics,
            sample: share(config.sample_rate),
            slow: (config.slow_ms > 0).then(|| Duration::from_millis(config.slow_ms)),
            query: config.query,
            cut,
        };
        Ok((Self(Some(Arc::new(shared))), Some(writer)))
    }

    /// A request came.
    pub fn begin<B>(&self, request: &Request<B>, client: &Client, id: &HeaderValue, began: Instant) -> Entry {
        let Some(shared) = &self.0 else {
            return Entry(None);
        };
        let record = Record {
            at: Time::now(),
            id: id.clone(),
            client: client.address,
            secure: client.tls.is_some(),
            method: request.method().clone(),
            host: request.headers().get(header::HOST).cloned(),
            uri: request.uri().clone(),
            query: shared.query,
            version: request.version(),
            ..Record::new(began)
        };
        let sampled = (roll() >> 32) < shared.sample;
        Entry(Some(Box::new(Open {
            record,
            sampled,
            log: Arc::clone(shared),
        })))
    }
}

/// How many of 2³² a share is.
pub fn share(rate: f64) -> u64 {
    (rate * 4_294_967_296.0) as u64
}

/// What is known of one request; written when it is dropped. Costs nothing where there is no log.
#[derive(Debug, Default)]
pub struct Entry(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    record: Record,
    sampled: bool,
    log: Arc<Shared>,
}

impl Entry {
    fn with(&mut self, tell: impl FnOnce(&mut Record)) {
        if let Some(open) = &mut self.0 {
            tell(&mut open.record);
        }
    }

    /// It belongs to a trace, as `traceparent` says.
    pub fn traced(&mut self, parent: &HeaderValue) {
        self.with(|record| record.trace = parent.clone());
    }

    /// It is from somebody before the client, over TLS or not, as far as that is known.
    pub fn sent_by(&mut self, address: IpAddr, secure: Option<bool>) {
        self.with(|record| {
            record.client = address;
            record.secure = secure.unwrap_or(record.secure);
        });
    }

    /// It has a body, which moves like this.
    pub fn uploads(&mut self, progress: Option<Arc<Progress>>) {
        self.with(|record| record.upload = progress);
    }

    /// It was led to a deployment.
    pub fn led_to(&mut self, traffic: &Arc<Traffic>) {
        self.with(|record| record.traffic = Some(Arc::clone(traffic)));
    }

    /// It has a place on a task.
    pub fn placed(&mut self, task: TaskId) {
        self.with(|record| record.task = Some(task));
    }

    /// It has to be sent once more.
    pub fn retried(&mut self) {
        self.with(|record| record.retries += 1);
    }

    /// It waited so long for a wake, of which this is known.
    pub fn woken(&mut self, waited: Duration, phases: Phases) {
        self.with(|record| record.wake = Some(Wake { waited, phases }));
    }

    /// The proxy itself answers it.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.with(|record| {
            record.failed = refusal.status().is_server_error();
            record.code = Some(refusal.label().into());
            record.error = Some(refusal.to_string().into());
        });
    }

    /// The head of its answer is here.
    pub fn answered(&mut self, status: StatusCode) {
        self.with(|record| {
            record.status = Some(status);
            record.first_byte = Some(record.began.elapsed());
        });
    }

    /// So much of the answer went out.
    pub fn sent(&self, bytes: u64) {
        if let Some(open) = &self.0 {
            open.record.bytes_out.fetch_add(bytes, Relaxed);
        }
    }

    /// So much came through a tunnel.
    pub fn received(&self, bytes: u64) {
        if let Some(open) = &self.0 {
            open.record.bytes_in.fetch_add(bytes, Relaxed);
        }
    }

    /// The answer's body came to its end, or not.
    fn ended(&mut self, whole: bool) {
        let stopping = self.0.as_ref().is_some_and(|open| open.log.cut.is_cancelled());
        self.with(|record| {
            let has_body = record.method != Method::HEAD;
            if !whole && has_body && record.error.is_none() {
                let cause = if stopping {
                    "cut off: the proxy stopped"
                } else {
                    "the client went away before the end of the answer"
                };
                record.error = Some(cause.into());
            }
        });
    }

    /// The task broke off its answer.
    fn broken(&mut self, cause: &dyn std::error::Error) {
        self.with(|record| {
            let cause = zectre_service::problem::chain(cause);
            record.error = Some(format!("the application broke off its answer: {cause}").into());
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let record = &mut self.record;
        record.duration = record.began.elapsed();
        if record.status.is_none() {
            record.error = Some(if self.log.cut.is_cancelled() {
                "cut off: the proxy stopped".into()
            } else {
                "the client went away before an answer".into()
            });
        }
        let slow = self.log.slow.is_some_and(|slow| record.duration >= slow);
        if !(self.sampled || slow || record.has_failed()) {
            return;
        }
        match self.log.queue.try_reserve() {
            // Written here, since a record holds on to the whole head that it came with.
            Ok(place) => place.send(writer::Message::Line(record.line())),
            Err(_) => self.log.metrics.dropped(1),
        }
    }
}
