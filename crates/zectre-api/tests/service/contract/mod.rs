//! A client that knows nothing but the document calls every endpoint with good and bad input: no answer is a fault of the
//! server, of a status that the document doesn't name, or of another form than it says.
//!
//! `ZECTRE_SEED` repeats a run; `ZECTRE_CONTRACT_SECS` makes it longer.

mod generate;
mod validate;

use crate::harness::Harness;
use generate::{text, value};
use proptest::{
    prelude::*,
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use validate::Schemas;

/// How long calls are made; every endpoint gets some in any case.
const CALLS_FOR: Duration = Duration::from_secs(12);
/// Calls of each endpoint before the next one has its turn.
const CALLS_IN_A_ROW: usize = 3;
/// Ids of things that there are.
const IDS_MAX: usize = 60;
/// A stream goes on; its head comes at once.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

struct Operation<'d> {
    method: Method,
    path: &'d str,
    described: &'d Value,
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let paths = document["paths"].as_object().expect("paths");
    let all = paths.iter().flat_map(|(path, item)| {
        let operations = item.as_object().expect("operations");
        operations.iter().map(move |(method, described)| Operation {
            method: method.to_uppercase().parse().expect("a method"),
            path,
            described,
        })
    });
    all.collect()
}

struct Client<'a> {
    api: &'a Harness,
    schemas: Schemas<'a>,
    runner: TestRunner,
    ids: Vec<String>,
    /// The client's own account, which no path names: it would disable itself.
    own: String,
}

impl Client<'_> {
    fn draw<T: std::fmt::Debug>(&mut self, strategy: &BoxedStrategy<T>) -> T {
        strategy
            .new_tree(&mut self.runner)
            .expect("nothing is filtered")
            .current()
    }

    /// A text for a parameter.
    fn parameter(&mut self, schema: &Value) -> String {
        let ids = self.ids.clone();
        let drawn = value(&self.schemas, schema, &ids, 0);
        match self.draw(&drawn) {
            Value::String(text) => text,
            other => other.to_string(),
        }
    }

    fn path(&mut self, operation: &Operation<'_>) -> String {
        let parts: Vec<String> = operation.path.split('/').map(|part| {
            if !part.starts_with('{') {
                return part.to_owned();
            }
            let ids = self.ids.clone();
            let drawn = match part {
                "{id}" | "{user_id}" | "{delivery}" => prop_oneof![8 => select(ids), 1 => text()].boxed(),
                _ => prop_oneof![2 => select(vec!["default", "hello", "production", "hello-default", "KEY"]).prop_map(str::to_owned), 1 => text()].boxed(),
            };
            let mut text = self.draw(&drawn);
            if text == "." || text == ".." {
                // However they are written, a client takes these out of a path before it sends it.
                text.push('x');
            }
            encoded(&text.chars().take(2_000).collect::<String>())
        }).collect();
        parts.join("/")
    }

    /// One call with drawn input.
    fn call(&mut self, operation: &Operation<'_>) -> RequestBuilder {
        let mut url = self.path(operation);
        let mut headers = Vec::new();
        for parameter in operation.described["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().expect("a name").to_owned();
            let wanted = self.draw(&prop::bool::weighted(0.3).boxed());
            if !wanted || parameter["in"] == "path" {
                continue;
            }
            let text: String = self.parameter(&parameter["schema"]).chars().take(2_000).collect();
            if parameter["in"] == "query" {
                let separator = if url.contains('?') { '&' } else { '?' };
                url = format!("{url}{separator}{name}={}", encoded(&text));
            } else if text.bytes().all(|byte| byte.is_ascii_graphic()) {
                headers.push((name, text));
            }
        }
        let mut request = self
            .api
            .page(operation.method.clone(), &url)
            .timeout(ANSWER_DEADLINE);
        for (name, text) in headers {
            request = request.header(name, text);
        }
        // Now and then nobody, or somebody unknown.
        request = match self.draw(&(0..20_u32).boxed()) {
            0 => request,
            1 => request.header("x-api-key", "zk_unknown"),
            2 => request.bearer_auth("a.b.c"),
            _ => request.header("x-api-key", &self.api.admin),
        };
        self.with_body(operation, request)
    }

    fn with_body(&mut self, operation: &Operation<'_>, request: RequestBuilder) -> RequestBuilder {
        let Some(kinds) = operation.described["requestBody"]["content"].as_object() else {
            return request;
        };
        let (kind, content) = self.draw(
            &select(
                kinds
                    .iter()
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect::<Vec<_>>(),
            )
            .boxed(),
        );
        if kind != "application/json" {
            let text = self.draw(&text());
            return request.header("content-type", kind).body(text);
        }
        let ids = self.ids.clone();
        let drawn = value(&self.schemas, &content["schema"], &ids, 0);
        let body = self.draw(&drawn).to_string();
        match self.draw(&(0..30_u32).boxed()) {
            0 => request.body(body),
            1 => request
                .header("content-type", kind)
                .body(body.as_bytes()[..body.len() / 2].to_vec()),
            2 => request.header("content-type", kind).body(vec![0xff, 0x00, b'{']),
            _ => request.header("content-type", kind).body(body),
        }
    }

    /// Sends it; what is wrong with the answer.
    async fn judge(&mut self, operation: &Operation<'_>, request: RequestBuilder) -> Option<String> {
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) if error.is_builder() => return None,
            Err(error) => return Some(format!("no answer: {error}")),
        };
        let status = answer.status();
        let kind = answer
            .headers()
            .get("content-type")
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().to_owned();
        let described = &operation.described["responses"][status.as_str()];
        if kind == "text/event-stream" {
            return described
                .is_null()
                .then(|| format!("{status} is not in the document"));
        }
        let text = match answer.text().await {
            Ok(text) => text,
            Err(error) => return Some(format!("{status}, and the body broke off: {error}")),
        };
        if status.is_server_error() {
            return Some(format!("{status}: {text}"));
        }
        if described.is_null() {
            return Some(format!("{status} is not in the document: {text}"));
        }
        let Some(content) = described["content"].get(&kind) else {
            let fits = described["content"].is_null() && text.is_empty();
            return (!fits).then(|| format!("{status}: `{kind}` is not in the document: {text}"));
        };
        if !kind.ends_with("json") {
            return None;
        }
        let Ok(body) = serde_json::from_str::<Value>(&text) else {
            return Some(format!("{status}: no JSON: {text}"));
        };
        if self.ids.len() < IDS_MAX
            && status.is_success()
            && let Some(id) = body["id"].as_str()
            && id != self.own
        {
            self.ids.push(id.to_owned());
        }
        let misfit = self.schemas.misfit(&content["schema"], &body, "body");
        misfit.map(|misfit| format!("{status}: {misfit}"))
    }
}

fn encoded(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut out, byte| {
        let plain = byte.is_ascii_alphanumeric() || b"-_~".contains(&byte);
        // Writing to a String can't fail.
        let _ = if plain {
            write!(out, "{}", byte as char)
        } else {
            write!(out, "%{byte:02X}")
        };
        out
    })
}

/// One of each kind of thing.
async fn things(api: &Harness) -> Vec<String> {
    let deployment = api.deployment().await.to_string();
    let app = api.get("/apps/default/hello").await.expect(200).id();
    let hook = api
        .post("/webhooks", json!({"url": "https://example.com/"}))
        .await
        .expect(201)
        .id();
    let user = json!({"email": "ann@example.org", "password": "correct horse"});
    let user = api.post("/auth/signup", user).await.expect(201).json();
    let user = user["id"]
        .as_str()
        .or(user["user"]["id"].as_str())
        .expect("an id")
        .to_owned();
    vec![
        deployment,
        app.clone(),
        app,
        hook,
        user,
        api.artifact("bytes").await,
    ]
}

/// Answers that no drawn input leads to: an upload of an unknown length under a quota, and a range beyond the end.
async fn judge_what_is_not_drawn(client: &mut Client<'_>, operations: &[Operation<'_>]) {
    let api = client.api;
    let quota = json!({ "artifact_bytes": 1_000_000_000 });
    api.call(&api.admin, Method::PUT, "/orgs/default/quota", Some(quota))
        .await
        .expect(200);
    let announced = api.post("/artifacts", json!({ "name": "hello" })).await;
    let upload = format!("/artifacts/{}/upload", announced.expect(201).id());
    let download = format!("/artifacts/{}/download", api.artifact("some bytes").await);
    let request = |method: &Method, path: &str| {
        let request = api
            .request(method.clone(), path)
            .header("X-API-Key", &api.admin)
            .timeout(ANSWER_DEADLINE);
        if *method == Method::GET {
            return request.header("Range", "bytes=9999999-");
        }
        let bytes = futures_util::stream::iter([Ok::<_, std::io::Error>("some"), Ok("bytes")]);
        request
            .header("Content-Type", "application/octet-stream")
            .body(reqwest::Body::wrap_stream(bytes))
    };
    for (method, path, described, status) in [
        (Method::POST, &upload, "/artifacts/{id}/upload", 411),
        (Method::GET, &download, "/artifacts/{id}/download", 416),
    ] {
        let found = operations
            .iter()
            .find(|one| one.method == method && one.path.ends_with(described));
        let operation = found.expect("it is in the document");
        api.send(request(&method, path)).await.expect(status);
        assert_eq!(client.judge(operation, request(&method, path)).await, None);
    }
}

#[tokio::test]
async fn every_answer_to_whatever_input_is_in_the_document() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("ZECTRE_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("ZECTRE_SEED={seed}");
    let calls_for = number("ZECTRE_CONTRACT_SECS").map_or(CALLS_FOR, Duration::from_secs);
    let api = Harness::start_with("proxy.wake_timeout_ms = 1000\n").await;
    let document: Value = api.get("/openapi.json").await.expect(200).json();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut client = Client {
        api: &api,
        schemas: Schemas(&document),
        runner: TestRunner::new_with_rng(
            Config::default(),
            TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
        ),
        ids: things(&api).await,
        own: api.get("/user").await.expect(200).id(),
    };
    let operations = operations(&document);
    judge_what_is_not_drawn(&mut client, &operations).await;
    let (began, mut calls, mut faults) = (Instant::now(), 0, std::collections::BTreeMap::new());
    while calls == 0 || began.elapsed() < calls_for {
        for operation in &operations {
            for _ in 0..CALLS_IN_A_ROW {
                let request = client.call(operation);
                let shown = format!("{request:?}").chars().take(600).collect::<String>();
                calls += 1;
                if let Some(fault) = client.judge(operation, request).await {
                    let begins = fault.chars().filter(|c| !c.is_ascii_digit()).take(60);
                    let kind = format!(
                        "{} {} {}",
                        operation.method,
                        operation.path,
                        begins.collect::<String>()
                    );
                    faults.entry(kind).or_insert((fault, shown));
                }
            }
        }
    }
    println!("{calls} calls of {} endpoints", operations.len());
    assert!(
        faults.is_empty(),
        "with ZECTRE_SEED={seed}: {} kinds of faults: {faults:#?}",
        faults.len()
    );
    api.stop().await;
}
