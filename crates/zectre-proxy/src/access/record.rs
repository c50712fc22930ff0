//! What is known of a request, and how it is written.

use super::{CLIENT_GONE, line::Line};
use crate::{ingress::body::Progress, live::Traffic};
use http::{HeaderValue, Method, StatusCode, Uri, Version};
use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use zectre_common::{id::TaskId, time::Time, wire::task::Phases};

/// No more than most lines have, in bytes.
const LINE_USUAL: usize = 640;

/// A request.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) at: Time,
    pub(super) began: Instant,
    pub(super) id: HeaderValue,
    /// Its `traceparent`.
    pub(super) trace: HeaderValue,
    pub(super) client: IpAddr,
    pub(super) secure: bool,
    pub(super) method: Method,
    pub(super) host: Option<HeaderValue>,
    pub(super) uri: Uri,
    /// Write the query, too.
    pub(super) query: bool,
    pub(super) version: Version,
    /// None was told to the client, or none yet.
    pub(super) status: Option<StatusCode>,
    pub(super) upload: Option<Arc<Progress>>,
    /// Through a tunnel.
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) first_byte: Option<Duration>,
    pub(super) duration: Duration,
    pub(super) wake: Option<Wake>,
    pub(super) traffic: Option<Arc<Traffic>>,
    pub(super) task: Option<TaskId>,
    pub(super) retries: u32,
    /// The proxy's own answer says so, in whatever words its client understands.
    pub(super) failed: bool,
    /// Of the proxy's own answer.
    pub(super) code: Option<Cow<'static, str>>,
    pub(super) error: Option<Cow<'static, str>>,
}

/// A wake that was waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wake {
    pub(super) waited: Duration,
    pub(super) phases: Phases,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Record {
    /// Of nothing yet but its begin.
    pub(super) fn new(began: Instant) -> Self {
        Self {
            at: Time::from_unix_ms(0),
            began,
            id: HeaderValue::from_static(""),
            trace: HeaderValue::from_static(""),
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            secure: false,
            method: Method::GET,
            host: None,
            uri: Uri::default(),
            query: false,
            version: Version::HTTP_11,
            status: None,
            upload: None,
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            first_byte: None,
            duration: Duration::ZERO,
            wake: None,
            traffic: None,
            task: None,
            retries: 0,
            failed: false,
            code: None,
            error: None,
        }
    }

    /// No answer, an answer that says so, or one that broke off.
    pub(super) fn has_failed(&self) -> bool {
        let broke_off = self.error.is_some() && self.code.is_none();
        self.failed || broke_off || self.status.is_none_or(|status| status.is_server_error())
    }

    /// Its line.
    pub(super) fn line(&self) -> String {
        let mut text = String::with_capacity(LINE_USUAL);
        self.write(Line::begin(&mut text));
        text
    }

    fn write(&self, mut line: Line<'_>) {
        line.text("time", self.at);
        line.text("request_id", lossy(&self.id));
        if let Some(id) = self.trace.as_bytes().get(3..35) {
            line.text("trace_id", String::from_utf8_lossy(id));
        }
        line.text("client", self.client);
        line.text("method", &self.method);
        line.text("scheme", if self.secure { "https" } else { "http" });
        match (self.uri.authority(), &self.host) {
            (Some(authority), _) => line.text("host", authority),
            (None, Some(host)) => line.text("host", lossy(host)),
            (None, None) => {}
        }
        line.text("path", self.uri.path());
        if let Some(query) = self.uri.query().filter(|_| self.query) {
            line.text("query", query);
        }
        line.text("protocol", format_args!("{:?}", self.version));
        line.number(
            "status",
            self.status.map_or(CLIENT_GONE, |status| status.as_u16()),
        );
        let uploaded = self.upload.as_ref().map_or(0, |progress| progress.bytes());
        line.number("bytes_in", uploaded + self.bytes_in.load(Relaxed));
        line.number("bytes_out", self.bytes_out.load(Relaxed));
        line.millis("duration_ms", micros(self.duration));
        if let Some(first_byte) = self.first_byte {
            line.millis("first_byte_ms", micros(first_byte));
        }
        if let Some(wake) = &self.wake {
            line.object("wake", |line| wake.write(line));
        }
        if let Some(traffic) = &self.traffic {
            let name = traffic.route().name();
            line.text("app", &name.app);
            line.text("environment", &name.environment);
            line.text("deployment", traffic.id());
            line.number("version", u64::from(traffic.version().unsigned_abs()));
        }
        if let Some(task) = &self.task {
            line.text("task", task);
        }
        line.number("retries", self.retries);
        if let Some(code) = &self.code {
            line.text("code", code);
        }
        if let Some(error) = &self.error {
            line.text("error", error);
        }
        line.end();
    }
}

impl Wake {
    fn write(&self, line: &mut Line<'_>) {
        line.millis("waited_ms", micros(self.waited));
        let phases = [
            ("place_ms", self.phases.place_us),
            ("fetch_ms", self.phases.fetch_us),
            ("start_ms", self.phases.start_us),
            ("ready_ms", self.phases.ready_us),
        ];
        for (name, us) in phases {
            if let Some(us) = us {
                line.millis(name, us);
            }
        }
    }
}

fn lossy(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(record: &Record) -> serde_json::Value {
        serde_json::from_str(&record.line()).expect("JSON")
    }

    #[test]
    fn what_is_secret_or_unknown_is_left_out() {
        let mut record = Record {
            uri: "/a/b?token=s3cret".parse().expect("a target"),
            host: Some(HeaderValue::from_bytes(b"a\xff.example").expect("a value")),
            bytes_in: AtomicU64::new(2),
            duration: Duration::from_micros(1_500),
            ..Record::new(Instant::now())
        };
        let line = read(&record);
        assert_eq!((&line["path"], &line["status"]), (&"/a/b".into(), &499.into()));
        assert_eq!(
            (&line["bytes_in"], &line["duration_ms"]),
            (&2.into(), &1.5.into())
        );
        assert_eq!(line["host"], "a\u{fffd}.example");
        for absent in ["query", "task", "deployment", "wake", "error", "first_byte_ms"] {
            assert!(line.get(absent).is_none(), "{line}");
        }
        record.query = true;
        assert_eq!(read(&record)["query"], "token=s3cret");
    }

    #[test]
    fn a_wake_is_told_with_its_phases() {
        let phases = Phases {
            place_us: Some(1_000),
            ready_us: Some(250),
            ..Phases::default()
        };
        let wake = Wake {
            waited: Duration::from_millis(3),
            phases,
        };
        let line = read(&Record {
            wake: Some(wake),
            ..Record::new(Instant::now())
        });
        let expected = serde_json::json!({ "waited_ms": 3.0, "place_ms": 1.0, "ready_ms": 0.25 });
        assert_eq!(line["wake"], expected);
    }

    #[test]
    fn a_refusal_of_what_is_wrong_is_no_failure() {
        let answered = |status, code: Option<&'static str>, error: Option<&'static str>| Record {
            status: StatusCode::from_u16(status).ok(),
            code: code.map(Cow::Borrowed),
            error: error.map(Cow::Borrowed),
            ..Record::new(Instant::now())
        };
        assert!(!answered(200, None, None).has_failed());
        assert!(!answered(404, Some("UNKNOWN_HOST"), Some("no such host")).has_failed());
        assert!(answered(502, Some("BAD_GATEWAY"), Some("lost")).has_failed());
        assert!(answered(500, None, None).has_failed());
        assert!(answered(200, None, Some("broke off")).has_failed());
        assert!(answered(0, None, None).has_failed());
    }
}
