//! To the task and back. When a task can't be reached, or dies before it answers a request that may be repeated,
//! another one gets it.

use super::{
    Ingress, Refusal, affinity,
    body::{Answer, Counts, Download, Upload},
    client::Client,
    expect,
    forwarded::Sender,
    grpc, headers,
    hold::{Place, Waiting},
    host::Host,
    inflow::Inflow,
    spare::Spare,
    trace::Trace,
};
use crate::{
    access::Entry,
    live::{Lease, Replica, Visit},
    metrics::{Counted, UpstreamError},
    upstream::{Failed, Kept, Reply, Terms},
};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version, header, request::Parts};
use http_body::Body;
use hyper::upgrade::OnUpgrade;
use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};
use tokio::time::timeout;
use zectre_common::wire::task::Phases;
use zectre_service::request_id;

/// Places one request is tried at; one that fails everywhere says something about the request.
const TRIES_MAX: u32 = 8;
/// Times that one request is sent and lost without a byte of an answer: a request that kills its task kills no more than
/// these.
const LOSSES_MAX: u32 = 3;
/// Before a request goes again to the one task that lost it: a program that ends closes its sockets one by one, and the
/// one that it listens at, perhaps, last.
const LOST_PAUSE: Duration = Duration::from_millis(100);
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// A request with all that is known of it.
#[derive(Debug)]
pub(super) struct Visitor<'r> {
    pub(super) parts: Parts,
    pub(super) body: Inflow,
    pub(super) host: &'r Host,
    pub(super) client: &'r Client,
    /// Who it is from, when that is somebody before the client.
    pub(super) sender: Option<Sender>,
    pub(super) id: &'r HeaderValue,
    pub(super) trace: &'r Trace,
    /// When it came.
    pub(super) began: Instant,
}

/// A task's answer that the client may have.
#[derive(Debug)]
struct Answered {
    reply: Reply,
    lease: Lease,
    /// The client's side of a change of the protocol.
    on_upgrade: Option<OnUpgrade>,
    /// That leads its visitor back to the same task.
    cookie: Option<HeaderValue>,
    /// From its place to the head of the answer, where a wake was waited for.
    first_byte: Option<Duration>,
}

impl Ingress {
    pub(super) async fn forward(
        &self,
        visitor: Visitor<'_>,
        in_flight: Counted,
        entry: &mut Entry,
    ) -> Result<Response<Answer>, Refusal> {
        let (id, began) = (visitor.id, visitor.began);
        let mut waiting = Waiting::new(&visitor.host.name, id, entry);
        let mut answered = match self.ask(visitor, &mut waiting).await {
            Ok(answered) => answered,
            Err(refusal) => {
                waiting.refuse(refusal.status(), began.elapsed());
                return Err(refusal);
            }
        };
        let (visit, woken) = waiting.finish();
        let visit = visit.expect("a place is given to a counted request only");
        let (status, after) = (
            answered.reply.response.status(),
            answered.reply.came.duration_since(began),
        );
        visit.red().answered(status, after);
        if let Some(node) = answered.lease.replica().node() {
            node.answered(status, after);
        }
        let (first_byte, cookie) = (answered.first_byte, answered.cookie.take());
        let mut response = self.relay(answered, visit, in_flight, entry);
        response.headers_mut().insert(request_id::HEADER, id.clone());
        if let Some(cookie) = cookie {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        if let Some((waited, phases)) = woken {
            response
                .headers_mut()
                .append(SERVER_TIMING, server_timing(waited, phases, first_byte));
        }
        Ok(response)
    }

    /// Gets an answer from a task.
    async fn ask(&self, visitor: Visitor<'_>, waiting: &mut Waiting<'_>) -> Result<Answered, Refusal> {
        let Visitor {
            mut parts,
            body,
            host,
            client,
            sender,
            id,
            trace,
            ..
        } = visitor;
        let mut body = Upload::new(body, self.limits.body);
        let expects = expect::is_expected(&parts) && !body.is_end_stream();
        waiting.entry().uploads(body.progress());
        let upgrade = headers::upgrade(&parts, !body.is_end_stream());
        let on_upgrade = upgrade
            .is_some()
            .then(|| parts.extensions.remove::<OnUpgrade>())
            .flatten();
        waiting.look_at(&parts, !body.is_end_stream());
        let secure =
            client.tls.is_some() || sender.as_ref().is_some_and(|sender| sender.secure == Some(true));
        let placed = {
            let mut place = pin!(self.place(waiting));
            let placed = poll_fn(|cx| match place.as_mut().poll(cx) {
                // Who waits for a word is told one when it is read from.
                Poll::Pending if !expects => body
                    .read_ahead(cx)
                    .map(|fault| Err(self.limits.body.refusal(fault))),
                placed => placed,
            });
            placed.await
        };
        let Place { lease, http2 } = placed?;
        headers::rewrite(&mut parts, host, client, sender, id, upgrade, http2);
        trace.hand_on(&mut parts.headers);
        if http2 {
            body.may_be_slow();
        } else if !body.is_end_stream() {
            headers::frame(&mut parts, body.size_hint().exact());
            if expects {
                parts.headers.insert(header::EXPECT, expect::CONTINUE);
            }
        }
        let request = Request::from_parts(parts, body);
        let sent = waiting.has_slept().then(Instant::now);
        let (reply, lease) = self.deliver(request, Place { lease, http2 }, waiting).await?;
        let cookie = self.cookie(&lease, waiting, secure);
        headers::check_framing(reply.response.headers())?;
        if reply.response.status() == StatusCode::SWITCHING_PROTOCOLS && on_upgrade.is_none() {
            return Err(Refusal::BadGateway(
                "it changed the protocol without being asked".into(),
            ));
        }
        Ok(Answered {
            reply,
            lease,
            on_upgrade,
            cookie,
            first_byte: sent.map(|sent| sent.elapsed()),
        })
    }

    /// What leads the visitor back to the task that answered, unless its cookie does so already.
    fn cookie(&self, lease: &crate::live::Lease, waiting: &Waiting<'_>, secure: bool) -> Option<HeaderValue> {
        let mark = self.marks.of(lease.replica());
        waiting.is_new_to(mark).then(|| affinity::cookie(mark, secure))
    }

    /// Sends the request until some task answers it.
    async fn deliver(
        &self,
        mut request: Request<Upload>,
        mut place: Place,
        waiting: &mut Waiting<'_>,
    ) -> Result<(Reply, Lease), Refusal> {
        // Who says how long it waits knows better than we do.
        let response_timeout = grpc::timeout(request.headers()).unwrap_or(self.limits.response_timeout);
        let mut was_stale = false;
        for _ in 0..TRIES_MAX {
            let spare = Spare::of(&mut request, place.http2, self.limits.repeats);
            let repeatable = spare.as_ref().is_some_and(Spare::is_repeatable);
            let replica = place.lease.replica();
            // What may be repeated is better off elsewhere, if there is an elsewhere; what may not is given up once
            // the scheduler, too, has given up the task.
            let may_leave = || {
                if repeatable {
                    self.has_other(waiting.target(), &[replica.task()])
                } else {
                    replica.has_left()
                }
            };
            let terms = Terms {
                kept: kept(was_stale, spare.as_ref(), self.limits.reuses),
                response_timeout,
                may_leave: &may_leave,
            };
            let next = match self.upstream.send(replica, request, terms).await {
                Ok(reply) => {
                    if let Some(spare) = spare {
                        spare.answered(reply.response.status()).await;
                    }
                    if reply.response.status().is_server_error() {
                        self.judge(replica, waiting);
                    } else {
                        replica.served();
                    }
                    return Ok((reply, place.lease));
                }
                Err(failed) => self.recover(failed, spare, replica, waiting)?,
            };
            request = next.request;
            waiting.retried();
            match next.place {
                At::Same => {
                    was_stale = true;
                    continue;
                }
                At::Any => {}
                At::Other => waiting.avoid(replica.task()),
                At::Reachable => replica.eject(self.now_ms()),
            }
            let http2 = place.http2;
            drop(place);
            if next.place == At::Other && !self.has_other(waiting.target(), waiting.avoided()) {
                let _ = timeout(LOST_PAUSE, self.tables.changes().changed()).await;
            }
            place = self.place(waiting).await?;
            if place.http2 != http2 {
                // A deployment that speaks another protocol took over meanwhile; the head is written for the old one.
                return Err(Refusal::BadGateway("the application changed its protocol".into()));
            }
        }
        let cause = waiting.last_failure().unwrap_or("no replica answered");
        Err(Refusal::BadGateway(format!(
            "{TRIES_MAX} tries failed, the last one so: {cause}"
        )))
    }

    /// What follows a failure: the request once more, or an end.
    fn recover(
        &self,
        failed: Failed,
        spare: Option<Spare>,
        replica: &Replica,
        waiting: &mut Waiting<'_>,
    ) -> Result<Next, Refusal> {
        let repeatable = spare
            .as_ref()
            .is_some_and(|spare| spare.is_repeatable() || spare.is_whole());
        let again = |cause: &str, allowed: bool| {
            let spare = spare.filter(|_| allowed).and_then(Spare::again);
            spare.ok_or_else(|| Refusal::BadGateway(cause.to_owned()))
        };
        if !matches!(failed, Failed::Body(_)) {
            self.metrics.upstream_error(match &failed {
                Failed::Unsent(..) => UpstreamError::Connect,
                Failed::TimedOut(_) => UpstreamError::Timeout,
                Failed::Untaken(_) => UpstreamError::Closed,
                _ => UpstreamError::Lost,
            });
        }
        if matches!(
            failed,
            Failed::TimedOut(_) | Failed::Garbled(_) | Failed::Oversized
        ) {
            replica.count_failure();
        }
        let (request, place, cause) = match failed {
            Failed::TimedOut(after) => return Err(Refusal::Timeout(after.as_secs())),
            Failed::Body(fault) => return Err(self.limits.body.refusal(fault)),
            Failed::Garbled(cause) => {
                return Err(Refusal::BadGateway(format!("its answer is no HTTP: {cause}")));
            }
            Failed::Oversized => {
                return Err(Refusal::BadGateway(format!(
                    "its answer has more than {}, which is the most that this proxy takes",
                    self.upstream.head_bound()
                )));
            }
            // No sign against the task: another connection to it is as good as another task.
            Failed::Stale(cause) => {
                let request = again(&cause, repeatable)?;
                lose(waiting, &cause)?;
                (request, At::Same, cause)
            }
            // It closed what rested, and has had nothing of this one: that spends nothing, whatever it is.
            Failed::Untaken(cause) => (again(&cause, true)?, At::Same, cause),
            Failed::Unsent(unsent, cause) => (*unsent, At::Reachable, cause),
            Failed::Lost(cause) => {
                self.judge(replica, waiting);
                let request = again(&cause, repeatable)?;
                lose(waiting, &cause)?;
                spend(waiting, &cause)?;
                // A program that hangs up at a request is there for all others: only who can't be reached is passed over
                // by everybody, or one visitor could take a program from all.
                let at = if replica.is_reachable() {
                    At::Other
                } else {
                    At::Reachable
                };
                (request, at, cause)
            }
            // Its own word that it has not begun: any request may go elsewhere, or to its next process.
            Failed::Refused { cause, is_leaving } => {
                let request = again(&cause, true)?;
                if !is_leaving {
                    spend(waiting, &cause)?;
                }
                (request, At::Any, cause)
            }
        };
        tracing::debug!(task = %replica.task(), cause, "a task did not answer a request");
        if place != At::Same {
            waiting.unreachable(cause);
        }
        Ok(Next { request, place })
    }

    /// Turns a task's answer into the client's.
    fn relay(
        &self,
        answered: Answered,
        visit: Visit,
        in_flight: Counted,
        entry: &mut Entry,
    ) -> Response<Answer> {
        let Reply {
            mut response, link, ..
        } = answered.reply;
        let counts = Counts {
            lease: answered.lease,
            visit,
            in_flight,
        };
        // The client's connection speaks for itself.
        *response.version_mut() = Version::HTTP_11;
        if let (StatusCode::SWITCHING_PROTOCOLS, Some(client)) = (response.status(), answered.on_upgrade) {
            let task = hyper::upgrade::on(&mut response);
            entry.answered(response.status());
            self.tunnel(client, task, counts, std::mem::take(entry));
            let protocol = response.headers_mut().remove(header::UPGRADE);
            headers::strip_hop_by_hop(response.headers_mut());
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            if let Some(protocol) = protocol {
                response.headers_mut().insert(header::UPGRADE, protocol);
            }
            return response.map(|_| Answer::empty());
        }
        headers::strip_hop_by_hop(response.headers_mut());
        response.map(|incoming| Answer::Stream(Download::new(incoming, link, counts)))
    }
}

/// A request that is sent once more.
struct Next {
    request: Request<Upload>,
    place: At,
}

/// Where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// To the same task.
    Same,
    /// To whichever has room.
    Any,
    /// To another one than those that lost it, if there is one.
    Other,
    /// To one that can be reached, which the last one can't, for anybody.
    Reachable,
}

/// What a request may go on that was, or was not, lost on a kept connection already; and whether one that may not be repeated
/// may go on a kept one at all.
fn kept(was_stale: bool, spare: Option<&Spare>, reuses: bool) -> Kept {
    match spare.filter(|spare| spare.lasts()) {
        _ if was_stale => Kept::None,
        Some(spare) if spare.is_repeatable() => Kept::Any,
        Some(_) if reuses => Kept::Trusted,
        // It could not be sent again, whatever came of it.
        _ => Kept::Replaced,
    }
}

/// Counts a try that was sent and lost.
fn lose(waiting: &mut Waiting<'_>, cause: &str) -> Result<(), Refusal> {
    if waiting.lost() < LOSSES_MAX {
        return Ok(());
    }
    Err(Refusal::BadGateway(format!(
        "{LOSSES_MAX} times it was sent to a replica that gave no answer, the last time so: {cause}"
    )))
}

/// Takes a second try from the deployment's budget.
fn spend(waiting: &Waiting<'_>, cause: &str) -> Result<(), Refusal> {
    let visit = waiting.visit();
    if visit.is_some_and(|visit| visit.traffic().budget().spend()) {
        return Ok(());
    }
    Err(Refusal::BadGateway(format!(
        "{cause}; it is not tried again, since too many requests were of late"
    )))
}

/// What a woken request waited for: the queue is what no phase explains.
fn server_timing(waited: Duration, phases: Phases, first_byte: Option<Duration>) -> HeaderValue {
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
    parts.extend(first_byte.map(|first_byte| part("first-byte", first_byte.as_micros())));
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
        let value = server_timing(
            Duration::from_millis(10),
            phases,
            Some(Duration::from_micros(250)),
        );
        assert_eq!(
            value,
            "queue;dur=3.500, place;dur=1.000, start;dur=2.000, ready;dur=3.500, first-byte;dur=0.250"
        );
    }
}
