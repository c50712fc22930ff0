//! The one place where a request's errors become responses: a status, a stable code, a sentence in
//! `X-Error-Detail` and in the body (a problem, or a page for people).

use super::{body::Answer, cause::publicly, grpc};
use crate::wake::WakeFailure;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use std::{fmt::Write, sync::Arc, time::Duration};
use zectre_common::{
    state::Reason,
    wire::problem::{CONTENT_TYPE, Problem},
};
use zectre_service::request_id;

/// Carries the sentence, for whoever looks at headers only.
pub const ERROR_DETAIL: HeaderName = HeaderName::from_static("x-error-detail");

/// The page of a wake tries again so often.
const WAKING_AGAIN_SECS: u32 = 2;

/// Why a request was not answered by a task.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// It can be read in two ways, or in none.
    #[error("{0}")]
    Malformed(&'static str),
    /// Its body ends before its end, or is not written as HTTP wants.
    #[error("the body of the request broke off, or is not valid HTTP: send it again, whole")]
    BrokenBody,
    /// It is longer than the given number of bytes.
    #[error("the body of the request is larger than {0} bytes, which is the most that this proxy takes")]
    BodyTooLarge(u64),
    /// It comes too slowly, or not at all.
    #[error(
        "the body of the request did not come in time: less than {bytes_min} bytes within {window_ms} ms"
    )]
    BodyTooSlow {
        /// What is waited for.
        bytes_min: u64,
        /// For how long.
        window_ms: u64,
    },
    /// More headers than the given number.
    #[error("the request has more than {0} headers, which is the most that this proxy takes")]
    TooManyHeaders(usize),
    /// A head of more than the given number of bytes.
    #[error("the head of the request is larger than {0} bytes, which is the most that this proxy takes")]
    HeadTooLarge(usize),
    /// More often than allowed; how long to wait.
    #[error("too many requests {}; try again in {} ms", .0.requests(), .1.as_millis())]
    TooManyRequests(Whose, Duration),
    /// As many requests are under way as may be.
    #[error("{} is busy: as many requests are under way as may be; try again", .0.name())]
    Overloaded(Whose),
    /// CONNECT is for forward proxies.
    #[error("this is a reverse proxy: it does not take CONNECT")]
    Connect,
    /// It may be passed on no more, and asks us.
    #[error("this proxy is as far as `Max-Forwards` lets the request go, and answers no such request itself")]
    LastHop,
    /// The connection was made for another name.
    #[error("this connection was made for another name than `{0}`: open one for it")]
    Misdirected(String),
    /// No table has this host.
    #[error(
        "no application answers at `{0}`: check the name, that it was deployed, and, for a domain of your own, that it is verified"
    )]
    UnknownHost(String),
    /// No table has this port.
    #[error("no application answers at port {0}")]
    UnknownPort(u16),
    /// Plain TCP is not HTTP.
    #[error("version {0} speaks plain TCP at a port of its own, not HTTP: `zectre status` shows where")]
    OtherProtocol(i32),
    /// The host is known, and nothing was ever deployed there.
    #[error("nothing has been deployed at `{0}` yet: run `zectre deploy`")]
    NothingDeployed(String),
    /// The table has not been read yet.
    #[error("the proxy has just started and knows no routes yet; try again")]
    NoTable,
    /// The deployment that is asked for failed or was cancelled.
    #[error("version {version} does not serve{}: `zectre status` says more to those who may see it",
        reason.map(|reason| format!(" ({reason}): {}", publicly(reason))).unwrap_or_default())]
    DeploymentFailed {
        /// Its number.
        version: i32,
        /// Why.
        reason: Option<Reason>,
    },
    /// It waits for its build or a place.
    #[error("version {0} is on its way; try again in a moment")]
    DeploymentPending(i32),
    /// Requests may not wake it.
    #[error(
        "version {0} is asleep, and requests do not wake it (cold_start_enabled is off): run `zectre scale` or `wake` it"
    )]
    Asleep(i32),
    /// It runs to completion.
    #[error("version {0} is a program that runs to completion: it answers no requests")]
    ServesNothing(i32),
    /// The wake call failed.
    #[error("the application could not be started: {}", .0.detail)]
    WakeFailed(Arc<WakeFailure>),
    /// A browser that has waited for a wake for a while: it asks again by itself.
    #[error("the application was asleep and is starting; this page opens it as soon as it is there")]
    Waking,
    /// The wake call took too long.
    #[error("the application is asleep and did not wake within {0} s; it may still do so")]
    WakeTimeout(u64),
    /// The waiting room is full.
    #[error("too many requests wait for the application to start")]
    TooManyHeld,
    /// Awake without a replica for too long.
    #[error("the application has no healthy replica; a replacement did not come within {0} s")]
    NoReplica(u64),
    /// A task took the request and failed it, or could not be reached.
    #[error("the application failed the request: {0}")]
    BadGateway(String),
    /// A task did not answer in time.
    #[error("the application did not answer within {0} s")]
    Timeout(u64),
}

/// In what form a client wants to be told.
#[derive(Debug, Clone)]
pub enum Form {
    /// A page, for people.
    Page,
    /// RFC 9457.
    Problem,
    /// A status of gRPC, with the content type of the call.
    Grpc(HeaderValue),
}

impl Form {
    /// For the client of a request with these headers.
    pub fn of(headers: &HeaderMap) -> Self {
        if let Some(kind) = grpc::content_type(headers) {
            return Self::Grpc(kind.clone());
        }
        let accept = headers
            .get(header::ACCEPT)
            .and_then(|accept| accept.to_str().ok());
        if accept.is_some_and(|accept| accept.contains("text/html")) {
            Self::Page
        } else {
            Self::Problem
        }
    }
}

/// Whose limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The client's.
    Client,
    /// The application's (in one environment).
    Application,
    /// The proxy's own.
    Proxy,
}

impl Whose {
    fn requests(self) -> &'static str {
        match self {
            Self::Client => "from your address",
            Self::Application => "for the application",
            Self::Proxy => "at once",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Client => "your address",
            Self::Application => "the application",
            Self::Proxy => "the proxy",
        }
    }
}

/// What is passed on to programs whatever else the request says: a 405 has to tell (RFC 9110, section 15.5.6).
const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");

impl Refusal {
    /// The code of a connection that is refused before any request.
    pub const TOO_MANY_CONNECTIONS: &str = "TOO_MANY_CONNECTIONS";
    /// The code of what can be read in two ways, or in none.
    pub const BAD_REQUEST: &str = "BAD_REQUEST";
    /// The code of a head that is too large.
    pub const HEADERS_TOO_LARGE: &str = "HEADERS_TOO_LARGE";

    /// Its code as a label of a metric: of a bounded set.
    pub(crate) fn label(&self) -> String {
        match self {
            // Comes from another service.
            Self::WakeFailed(_) => "WAKE_FAILED".into(),
            _ => self.kind().1.to_owned(),
        }
    }

    /// Its status.
    pub(crate) fn status(&self) -> StatusCode {
        self.kind().0
    }

    /// Its status and code, and after how many seconds a second try makes sense.
    fn kind(&self) -> (StatusCode, &str, Option<u32>) {
        const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
        match self {
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, Self::BAD_REQUEST, None),
            Self::BrokenBody => (StatusCode::BAD_REQUEST, "BROKEN_BODY", None),
            Self::BodyTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE", None),
            Self::BodyTooSlow { .. } => (StatusCode::REQUEST_TIMEOUT, "BODY_TIMEOUT", None),
            Self::TooManyHeaders(_) | Self::HeadTooLarge(_) => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                Self::HEADERS_TOO_LARGE,
                None,
            ),
            Self::TooManyRequests(whose, wait) => {
                let code = match whose {
                    Whose::Application => "APPLICATION_RATE_LIMITED",
                    Whose::Client | Whose::Proxy => "RATE_LIMITED",
                };
                // Whole seconds, and never too early.
                let secs = u32::try_from(wait.as_secs())
                    .unwrap_or(u32::MAX)
                    .saturating_add(1);
                (StatusCode::TOO_MANY_REQUESTS, code, Some(secs))
            }
            Self::Overloaded(Whose::Application) => (UNAVAILABLE, "APPLICATION_OVERLOADED", Some(1)),
            Self::Overloaded(_) => (UNAVAILABLE, "OVERLOADED", Some(1)),
            Self::Connect | Self::LastHop => (StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", None),
            Self::Misdirected(_) => (StatusCode::MISDIRECTED_REQUEST, "MISDIRECTED", None),
            Self::UnknownHost(_) => (StatusCode::NOT_FOUND, "UNKNOWN_HOST", None),
            Self::UnknownPort(_) => (StatusCode::NOT_FOUND, "UNKNOWN_PORT", None),
            Self::OtherProtocol(_) => (StatusCode::MISDIRECTED_REQUEST, "OTHER_PROTOCOL", None),
            Self::NothingDeployed(_) => (UNAVAILABLE, "NOTHING_DEPLOYED", Some(10)),
            Self::NoTable => (UNAVAILABLE, "NO_ROUTES", Some(1)),
            Self::DeploymentFailed { .. } => (UNAVAILABLE, "DEPLOYMENT_FAILED", Some(30)),
            Self::DeploymentPending(_) => (UNAVAILABLE, "DEPLOYMENT_PENDING", Some(2)),
            Self::Asleep(_) => (UNAVAILABLE, "ASLEEP", Some(30)),
            Self::ServesNothing(_) => (StatusCode::NOT_FOUND, "SERVES_NOTHING", None),
            Self::WakeFailed(failure) => (UNAVAILABLE, &failure.code, Some(5)),
            Self::Waking => (UNAVAILABLE, "WAKING", Some(WAKING_AGAIN_SECS)),
            Self::WakeTimeout(_) => (UNAVAILABLE, "WAKE_TIMEOUT", Some(5)),
            Self::TooManyHeld => (UNAVAILABLE, "TOO_MANY_HELD", Some(1)),
            Self::NoReplica(_) => (UNAVAILABLE, "NO_HEALTHY_REPLICA", Some(2)),
            Self::BadGateway(_) => (StatusCode::BAD_GATEWAY, "BAD_GATEWAY", None),
            Self::Timeout(_) => (StatusCode::GATEWAY_TIMEOUT, "UPSTREAM_TIMEOUT", None),
        }
    }

    /// The response, in the form that its client reads.
    pub fn respond(&self, id: &HeaderValue, form: &Form) -> Response<Answer> {
        let (status, code, retry_after_secs) = self.kind();
        let detail = self.to_string();
        let mut problem = Problem::new(status, code, &detail);
        problem.request_id = id.to_str().ok().map(str::to_owned);
        let (kind, body) = match form {
            Form::Page => {
                let again_secs = matches!(self, Self::Waking).then_some(WAKING_AGAIN_SECS);
                (
                    "text/html; charset=utf-8",
                    page(&problem, again_secs).into_bytes(),
                )
            }
            Form::Problem | Form::Grpc(_) => (
                CONTENT_TYPE,
                serde_json::to_vec(&problem).expect("a problem is plain strings and numbers"),
            ),
        };
        let mut response = Response::new(match form {
            Form::Grpc(_) => Answer::empty(),
            Form::Page | Form::Problem => Answer::text(Bytes::from(body)),
        });
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(ERROR_DETAIL, header_text(&detail));
        headers.insert(request_id::HEADER, id.clone());
        if let Some(secs) = retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, ALLOWED);
        }
        if let Form::Grpc(kind) = form {
            grpc::tell(self, status, kind, &mut response);
        }
        response
    }
}

/// `text` as a header value: what can't stand in one becomes `?`.
fn header_text(text: &str) -> HeaderValue {
    let plain: String = text
        .chars()
        .map(|c| if (' '..='~').contains(&c) { c } else { '?' })
        .collect();
    HeaderValue::try_from(plain).unwrap_or_else(|_| HeaderValue::from_static("see the body"))
}

/// Escaped for HTML text.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A page for people; one that tries again by itself after `again_secs`.
fn page(problem: &Problem, again_secs: Option<u32>) -> String {
    let mut page = String::with_capacity(1_024);
    let (title, refresh) = match again_secs {
        Some(secs) => (
            "One moment".into(),
            format!("<meta http-equiv=\"refresh\" content=\"{secs}\">"),
        ),
        None => (
            format!("{} {}", problem.status, escaped(&problem.title)),
            String::new(),
        ),
    };
    // Writing to a String can't fail.
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         {refresh}<title>{title}</title><style>body{{font:16px/1.6 system-ui,sans-serif;max-width:36rem;margin:18vh auto;\
         padding:0 1.5rem;color:#222;background:#fafafa}}h1{{font-size:1.4rem}}code,small{{color:#777}}\
         @media(prefers-color-scheme:dark){{body{{color:#ddd;background:#161616}}}}</style></head>\
         <body><h1>{title}</h1><p>{detail}</p><p><code>{code}</code></p><small>request {id}</small></body></html>",
        detail = escaped(&problem.detail),
        code = escaped(&problem.code),
        id = escaped(problem.request_id.as_deref().unwrap_or_default()),
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_reaches_a_page_or_a_header_raw() {
        let refusal = Refusal::BadGateway("<script>\r\nSet-Cookie: a=b\u{e9}".into());
        let response = refusal.respond(&HeaderValue::from_static("id-1"), &Form::Page);
        let detail = response.headers()[ERROR_DETAIL]
            .to_str()
            .expect("plain text")
            .to_owned();
        assert!(!detail.contains('\n') && detail.ends_with("a=b?"), "{detail}");
        let mut problem = Problem::new(StatusCode::BAD_GATEWAY, "BAD_GATEWAY", refusal.to_string());
        problem.request_id = Some("\"><img>".into());
        let page = page(&problem, None);
        assert!(!page.contains("<script>") && !page.contains("<img>"), "{page}");
    }

    #[test]
    fn a_failed_deployment_says_why() {
        let refusal = Refusal::DeploymentFailed {
            version: 3,
            reason: Some(Reason::PortNeverOpened),
        };
        assert_eq!(
            refusal.to_string(),
            "version 3 does not serve (port_never_opened): it did not open its port: `zectre status` says more to those who \
             may see it"
        );
    }

    #[test]
    fn every_code_is_documented() {
        let documented = include_str!("../../../../docs/PROXY_ERRORS.md");
        let all = [
            Refusal::Malformed(""),
            Refusal::BrokenBody,
            Refusal::BodyTooLarge(1),
            Refusal::BodyTooSlow {
                bytes_min: 1,
                window_ms: 1,
            },
            Refusal::TooManyHeaders(1),
            Refusal::HeadTooLarge(1),
            Refusal::TooManyRequests(Whose::Client, Duration::ZERO),
            Refusal::TooManyRequests(Whose::Application, Duration::ZERO),
            Refusal::Overloaded(Whose::Proxy),
            Refusal::Overloaded(Whose::Application),
            Refusal::Connect,
            Refusal::LastHop,
            Refusal::Misdirected(String::new()),
            Refusal::UnknownHost(String::new()),
            Refusal::UnknownPort(1),
            Refusal::OtherProtocol(1),
            Refusal::NothingDeployed(String::new()),
            Refusal::NoTable,
            Refusal::DeploymentFailed {
                version: 1,
                reason: None,
            },
            Refusal::DeploymentPending(1),
            Refusal::Asleep(1),
            Refusal::ServesNothing(1),
            Refusal::Waking,
            Refusal::WakeTimeout(1),
            Refusal::TooManyHeld,
            Refusal::NoReplica(1),
            Refusal::BadGateway(String::new()),
            Refusal::Timeout(1),
        ];
        for refusal in all {
            let (status, code, _) = refusal.kind();
            let row = format!("| `{code}` | {} |", status.as_u16());
            assert!(documented.contains(&row), "{row}");
        }
    }
}
