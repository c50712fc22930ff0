//! Calls operations of the document, and keeps what was answered for the snapshot of their tag.

use super::redact::Redactor;
use crate::{
    harness::{Answer, Harness},
    streams::{Sent, Stream},
};
use reqwest::RequestBuilder;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// The headers that say something about the answer, and not about the connection.
const HEADERS: [&str; 9] = [
    "cache-control",
    "content-disposition",
    "content-range",
    "content-type",
    "etag",
    "idempotency-replayed",
    "location",
    "retry-after",
    "x-content-type-options",
];

/// Who calls.
pub(super) enum By<'a> {
    Nobody,
    Key(&'a str),
    Token(&'a str),
}

/// A success that an operation of the document may answer with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Success {
    operation: String,
    status: u16,
}

/// A call and its answer.
struct Told {
    asked: Asked,
    status: u16,
    headers: Vec<(&'static str, String)>,
    answer: Body,
}

/// What was sent, as far as it is shown.
struct Asked {
    /// The method, the path, and what else is worth a line.
    lines: String,
    body: Option<Value>,
}

enum Body {
    Json(Value),
    /// Another content, by its length.
    Other(usize),
    Nothing,
    Events(Vec<Sent>),
}

pub(super) struct Walk {
    pub(super) api: Harness,
    /// The tag of each success of the document.
    document: BTreeMap<Success, String>,
    told: BTreeMap<String, Vec<Told>>,
    /// Successes that are still to be seen.
    missing: Vec<Success>,
    /// Operations that are there to change something, and of which no call has left an event so far.
    silent: BTreeSet<String>,
}

/// An operation that is about to be called.
pub(super) struct Call<'w> {
    walk: &'w mut Walk,
    operation: String,
    asked: Asked,
    request: RequestBuilder,
    is_signed: bool,
}

impl Walk {
    pub(super) fn new(api: Harness) -> Self {
        let described = serde_json::to_value(zectre_api::openapi::document()).expect("plain data");
        let mut document = BTreeMap::new();
        for (path, item) in described["paths"].as_object().expect("paths") {
            let path = path.strip_prefix("/api/v1").expect("the prefix");
            for (method, operation) in item.as_object().expect("operations") {
                let tag = operation["tags"][0].as_str().expect("a tag").to_owned();
                let answers = operation["responses"].as_object().expect("answers").keys();
                for status in answers
                    .filter_map(|status| status.parse().ok())
                    .filter(|status| *status < 400)
                {
                    let operation = format!("{} {path}", method.to_uppercase());
                    document.insert(Success { operation, status }, tag.clone());
                }
            }
        }
        let missing = document.keys().cloned().collect();
        let operations = document.keys().map(|one| one.operation.clone());
        let silent = operations.filter(|one| !one.starts_with("GET ")).collect();
        Self {
            api,
            document,
            told: BTreeMap::new(),
            missing,
            silent,
        }
    }

    /// `METHOD /path/{of}/the?document={s}`, whose places take the arguments in their order.
    pub(super) fn call(&mut self, template: &str, places: &[&str]) -> Call<'_> {
        let mut path = String::new();
        let mut places = places.iter();
        for piece in template.split_inclusive(['{', '}']) {
            match piece.strip_suffix('}') {
                Some(_) => path.push_str(places.next().expect("an argument for each place")),
                None => path.push_str(piece.trim_end_matches('{')),
            }
        }
        assert!(places.next().is_none(), "{template} has fewer places");
        let (method, path) = path.split_once(' ').expect("a method and a path");
        let request = self.api.request(method.parse().expect("a method"), path);
        Call {
            operation: template.split('?').next().unwrap_or(template).to_owned(),
            asked: Asked {
                lines: format!("{method} /api/v1{path}\n"),
                body: None,
            },
            request,
            is_signed: false,
            walk: self,
        }
    }

    fn keep(&mut self, operation: String, told: Told) {
        let success = Success {
            operation,
            status: told.status,
        };
        let Some(tag) = self.document.get(&success) else {
            panic!("{success:?} is not in the document");
        };
        for (_, place) in told.headers.iter().filter(|(name, _)| *name == "location") {
            assert!(
                self.is_read(place),
                "{success:?} says `{place}`, which answers no GET"
            );
        }
        self.missing.retain(|one| *one != success);
        self.told.entry(tag.clone()).or_default().push(told);
    }

    /// Whether the document has a GET of this place.
    fn is_read(&self, place: &str) -> bool {
        let parts = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        let place = parts(place.strip_prefix("/api/v1").expect("a place of the API"));
        let reads = self
            .document
            .keys()
            .filter_map(|one| one.operation.strip_prefix("GET "));
        let mut templates = reads.map(parts);
        templates.any(|template| {
            let mut pairs = template.iter().zip(&place);
            template.len() == place.len() && pairs.all(|(one, part)| one.starts_with('{') || one == part)
        })
    }

    /// What the document says and nobody called: `METHOD /path STATUS` each.
    pub(super) fn missing(&self) -> Vec<String> {
        let line = |one: &Success| format!("{} {}", one.operation, one.status);
        self.missing.iter().map(line).collect()
    }

    /// Operations that change something of which no event told.
    pub(super) fn silent(&self) -> Vec<&str> {
        self.silent.iter().map(String::as_str).collect()
    }

    /// What a call changed is in the activity feed: who did it, and from where.
    async fn look_for_events(&mut self, operation: &str, answer: &Answer) {
        if operation.starts_with("GET ") {
            return;
        }
        let request = answer.headers["x-request-id"].to_str().expect("text");
        let events = sqlx::query_as("SELECT actor, source_address FROM events WHERE request_id = $1");
        let events: Vec<(String, Option<String>)> = events
            .bind(request)
            .fetch_all(&self.api.pool)
            .await
            .expect("events");
        for (actor, address) in &events {
            assert!(
                !actor.is_empty() && address.is_some(),
                "{operation}: by {actor} from {address:?}"
            );
        }
        if !events.is_empty() {
            self.silent.remove(operation);
        }
    }

    /// For each tag the calls of its operations, in the order in which they were made.
    pub(super) fn pages(&self) -> BTreeMap<&str, String> {
        let page = |told: &Vec<Told>| {
            let mut redactor = Redactor::default();
            let calls: Vec<_> = told.iter().map(|one| one.shown(&mut redactor)).collect();
            calls.join("\n--------------------------------\n\n")
        };
        self.told
            .iter()
            .map(|(tag, told)| (tag.as_str(), page(told)))
            .collect()
    }
}

impl Told {
    fn shown(&self, redactor: &mut Redactor) -> String {
        let mut out = redactor.text(&self.asked.lines);
        if let Some(body) = &self.asked.body {
            // Writing to a String can't fail.
            let _ = writeln!(out, "{}", redactor.value(body));
        }
        let _ = writeln!(out, "\n{}", self.status);
        for (name, value) in &self.headers {
            let _ = writeln!(out, "{name}: {}", redactor.text(value));
        }
        let _ = match &self.answer {
            Body::Nothing => Ok(()),
            Body::Json(value) => writeln!(out, "\n{:#}", redactor.value(value)),
            Body::Other(bytes) => writeln!(out, "\n({bytes} bytes)"),
            Body::Events(events) => events.iter().try_for_each(|event| {
                // Where a stream stands in what transactions wrote is theirs; a line's number is the line's.
                let id = if event.id.parse::<u32>().is_ok() || event.id.is_empty() {
                    &event.id
                } else {
                    "position"
                };
                writeln!(
                    out,
                    "\nevent: {}\nid: {id}\ndata: {:#}",
                    event.name,
                    redactor.value(&event.data)
                )
            }),
        };
        out
    }
}

impl Call<'_> {
    /// Says who calls; unless this is said, the cluster's admin does.
    pub(super) fn by(mut self, who: &By<'_>) -> Self {
        self.is_signed = true;
        self.request = match who {
            By::Nobody => self.request,
            By::Key(key) => self.request.header("X-API-Key", *key),
            By::Token(token) => self.request.bearer_auth(token),
        };
        self
    }

    pub(super) fn json(mut self, body: &Value) -> Self {
        self.asked.body = Some(body.clone());
        self.request = self.request.json(body);
        self
    }

    /// A body that is no JSON.
    pub(super) fn body(mut self, kind: &str, body: &'static str) -> Self {
        let _ = writeln!(self.asked.lines, "({} bytes of {kind})", body.len());
        self.request = self.request.header("Content-Type", kind).body(body);
        self
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        let _ = writeln!(self.asked.lines, "{}: {value}", name.to_lowercase());
        self.request = self.request.header(name, value);
        self
    }

    /// A header that differs from run to run, and is not shown.
    pub(super) fn quiet_header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    fn signed(self) -> Self {
        if self.is_signed {
            return self;
        }
        let key = self.walk.api.admin.clone();
        self.by(&By::Key(&key))
    }

    /// Sends it; the answer's JSON, which is kept.
    pub(super) async fn answers(self, status: u16) -> Value {
        let Call {
            walk,
            operation,
            asked,
            request,
            ..
        } = self.signed();
        let answer = walk.api.send(request).await;
        assert_eq!(answer.status.as_u16(), status, "{operation}: {}", answer.text);
        walk.look_for_events(&operation, &answer).await;
        let (body, json) = body(&answer);
        let headers = headers(&answer.headers);
        walk.keep(
            operation,
            Told {
                asked,
                status,
                headers,
                answer: body,
            },
        );
        json
    }

    /// Opens a stream, and keeps the first events of it, as many as are named.
    pub(super) async fn streams(self, names: &[&str]) {
        let Call {
            walk,
            operation,
            asked,
            request,
            ..
        } = self.signed();
        let response = request.send().await.expect("the service answers");
        let headers = headers(response.headers());
        let mut stream = Stream::of(response);
        let mut events = Vec::new();
        for name in names {
            let event = stream.next().await.expect("more is to come");
            assert_eq!(event.name, *name, "{operation}");
            events.push(event);
        }
        walk.keep(
            operation,
            Told {
                asked,
                status: 200,
                headers,
                answer: Body::Events(events),
            },
        );
    }
}

fn headers(headers: &reqwest::header::HeaderMap) -> Vec<(&'static str, String)> {
    let shown = |name: &'static str| {
        let value = headers.get(name)?;
        Some((name, value.to_str().expect("text").to_owned()))
    };
    HEADERS.into_iter().filter_map(shown).collect()
}

fn body(answer: &Answer) -> (Body, Value) {
    let kind = answer
        .headers
        .get("content-type")
        .and_then(|kind| kind.to_str().ok());
    match kind {
        _ if answer.text.is_empty() => (Body::Nothing, Value::Null),
        Some("application/json") => (Body::Json(answer.json()), answer.json()),
        _ => (Body::Other(answer.text.len()), Value::Null),
    }
}

/// An id or another text of an answer.
#[track_caller]
pub(super) fn text(value: &Value, key: &str) -> String {
    let found = value[key].as_str();
    found.unwrap_or_else(|| panic!("no {key} in {value}")).to_owned()
}
