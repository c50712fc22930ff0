//! To the task and back. When a task can't be reached, or dies before it answers a request that may be repeated,
//! another one gets it.

use super::{
    Ingress, Refusal,
    body::{Answer, Counts, Download, Upload},
    client::Client,
    forwarded::Sender,
    headers::{self, Host},
    hold::{Place, Waiting},
};
use crate::{
    metrics::{Counted, UpstreamError},
    upstream::{Failed, Reply},
};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use http_body::Body;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use std::time::{Duration, Instant};
use zectre_common::wire::task::Phases;
use zectre_service::request_id;

/// Places one request is tried at; one that fails everywhere says something about the request.
const TRIES_MAX: u32 = 8;
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// A request with all that is known of it.
#[derive(Debug)]
pub(super) struct Visitor<'r> {
    pub(super) parts: Parts,
    pub(super) body: Incoming,
    pub(super) host: Host,
    pub(super) client: &'r Client,
    /// Who it is from, when that is somebody before the client.
    pub(super) sender: Option<Sender>,
    pub(super) id: &'r HeaderValue,
    pub(super) in_flight: Counted,
}

impl Ingress {
    pub(super) async fn forward(&self, visitor: Visitor<'_>) -> Result<Response<Answer>, Refusal> {
        let Visitor {
            mut parts,
            body,
            host,
            client,
            sender,
            id,
            in_flight,
        } = visitor;
        let body = Upload::new(body, self.limits.body);
        let upgrade = headers::upgrade(&parts, !body.is_end_stream());
        let on_upgrade = upgrade
            .is_some()
            .then(|| parts.extensions.remove::<OnUpgrade>())
            .flatten();
        let mut waiting = Waiting::new(&host.name, id);
        let Place { lease, http2 } = self.place(&mut waiting).await?;
        headers::rewrite(&mut parts, &host, client, sender, id, upgrade, http2);
        if !http2 && !body.is_end_stream() {
            headers::frame(&mut parts, body.size_hint().exact());
        }
        let request = Request::from_parts(parts, body);
        let began = Instant::now();
        let (reply, lease) = self
            .deliver(request, Place { lease, http2 }, &mut waiting)
            .await?;
        let (visit, woken) = waiting.finish();
        let visit = visit.expect("a place is given to a counted request only");
        let counts = Counts {
            lease,
            visit,
            in_flight,
        };
        let mut response = self.relay(reply, on_upgrade, counts)?;
        response.headers_mut().insert(request_id::HEADER, id.clone());
        if let Some((waited, phases)) = woken {
            response
                .headers_mut()
                .append(SERVER_TIMING, server_timing(waited, phases, began.elapsed()));
        }
        Ok(response)
    }

    /// Sends the request until some task answers it.
    async fn deliver(
        &self,
        mut request: Request<Upload>,
        mut place: Place,
        waiting: &mut Waiting<'_>,
    ) -> Result<(Reply, crate::live::Lease), Refusal> {
        for _ in 0..TRIES_MAX {
            let spare = spare(&request);
            let replica = place.lease.replica();
            // What may be repeated is better off elsewhere, if there is an elsewhere; what may not is given up once
            // the scheduler, too, has given up the task.
            let may_leave = || match &spare {
                Some(_) => self.has_other(waiting.host(), replica),
                None => replica.has_left(),
            };
            let sent = self
                .upstream
                .send(replica, request, spare.is_some(), &may_leave)
                .await;
            match sent {
                Ok(reply) => {
                    if reply.response.status().is_server_error() {
                        self.judge(replica, waiting);
                    } else {
                        replica.served();
                    }
                    return Ok((reply, place.lease));
                }
                Err(Failed::TimedOut) => {
                    self.metrics.upstream_error(UpstreamError::Timeout);
                    return Err(Refusal::Timeout(self.limits.response_timeout.as_secs()));
                }
                Err(Failed::Body(fault)) => return Err(self.limits.body.refusal(fault)),
                Err(Failed::Garbled(cause)) => {
                    self.metrics.upstream_error(UpstreamError::Lost);
                    return Err(Refusal::BadGateway(format!("its answer is no HTTP: {cause}")));
                }
                Err(Failed::Stale(cause)) => {
                    // No sign against the task: another connection to it is as good as another task.
                    self.metrics.upstream_error(UpstreamError::Lost);
                    request = spare.ok_or(Refusal::BadGateway(cause))?;
                    continue;
                }
                Err(Failed::Unsent(unsent, cause)) => {
                    self.metrics.upstream_error(UpstreamError::Connect);
                    tracing::debug!(task = %replica.task(), cause, "a task can't be reached");
                    waiting.unreachable(cause);
                    request = *unsent;
                }
                Err(Failed::Lost(cause)) => {
                    self.metrics.upstream_error(UpstreamError::Lost);
                    tracing::debug!(task = %replica.task(), cause, "a task lost a request");
                    self.judge(replica, waiting);
                    request = spare.ok_or_else(|| Refusal::BadGateway(cause.clone()))?;
                    if !waiting
                        .visit()
                        .is_some_and(|visit| visit.traffic().budget().spend())
                    {
                        return Err(Refusal::BadGateway(format!(
                            "{cause}; it is not tried again, since too many requests were of late"
                        )));
                    }
                    waiting.unreachable(cause);
                }
            }
            replica.eject(self.now_ms());
            let http2 = place.http2;
            drop(place);
            place = self.place(waiting).await?;
            if place.http2 != http2 {
                // A deployment that speaks another protocol took over meanwhile; the head is written for the old one.
                return Err(Refusal::BadGateway("the application changed its protocol".into()));
            }
        }
        Err(Refusal::BadGateway(format!("{TRIES_MAX} replicas failed it")))
    }

    /// Turns a task's answer into the client's.
    fn relay(
        &self,
        reply: Reply,
        on_upgrade: Option<OnUpgrade>,
        counts: Counts,
    ) -> Result<Response<Answer>, Refusal> {
        let Reply { mut response, link } = reply;
        headers::check_framing(response.headers())?;
        // The client's connection speaks for itself.
        *response.version_mut() = Version::HTTP_11;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let client = on_upgrade
                .ok_or_else(|| Refusal::BadGateway("it changed the protocol without being asked".into()))?;
            let task = hyper::upgrade::on(&mut response);
            self.tunnel(client, task, counts);
            let protocol = response.headers_mut().remove(header::UPGRADE);
            headers::strip_hop_by_hop(response.headers_mut());
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            if let Some(protocol) = protocol {
                response.headers_mut().insert(header::UPGRADE, protocol);
            }
            return Ok(response.map(|_| Answer::empty()));
        }
        headers::strip_hop_by_hop(response.headers_mut());
        Ok(response.map(|incoming| Answer::Stream(Download::new(incoming, link, counts))))
    }
}

/// A copy of a request that may be sent twice: idempotent (RFC 9110, section 9.2.2) and without a body.
fn spare(request: &Request<Upload>) -> Option<Request<Upload>> {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    );
    if !idempotent || !matches!(request.body(), Upload::Empty) {
        return None;
    }
    let mut spare = Request::new(Upload::Empty);
    spare.method_mut().clone_from(request.method());
    spare.uri_mut().clone_from(request.uri());
    *spare.version_mut() = request.version();
    spare.headers_mut().clone_from(request.headers());
    Some(spare)
}

/// What a woken request waited for: the queue is what no phase explains.
fn server_timing(waited: Duration, phases: Phases, first_byte: Duration) -> HeaderValue {
    let named = [
        ("place", phases.place_us),
        ("fetch", phases.fetch_us),
        ("start", phases.start_us),
        ("ready", phases.ready_us),
    ];
    let explained: u64 = named.iter().filter_map(|(_, us)| *us).sum();
    let queue_us = (waited.as_micros() as u64).saturating_sub(explained);
    let part = |name: &str, us: u128| format!("{name};dur={:.3}", us as f64 / 1e3);
    let mut parts = vec![part("queue", u128::from(queue_us))];
    parts.extend(
        named
            .iter()
            .filter_map(|(name, us)| us.map(|us| part(name, us.into()))),
    );
    parts.push(part("first-byte", first_byte.as_micros()));
    HeaderValue::try_from(parts.join(", ")).expect("names and numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_what_no_phase_explains() {
        let phases = Phases {
            place_us: Some(1_000),
            fetch_us: None,
            start_us: Some(2_000),
            ready_us: Some(3_500),
            ..Phases::default()
        };
        let value = server_timing(Duration::from_millis(10), phases, Duration::from_micros(250));
        assert_eq!(
            value,
            "queue;dur=3.500, place;dur=1.000, start;dur=2.000, ready;dur=3.500, first-byte;dur=0.250"
        );
    }
}
