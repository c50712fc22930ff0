//! Waiting for an answer: how long, and for whom.

use super::{Failed, KNOCK_EVERY, Terms, Upstream, alarm::Alarm};
use crate::{
    ingress::body::{Progress, Upload},
    live::Replica,
};
use http::{Request, Response};
use hyper::{body::Incoming, client::conn::TrySendError};
use std::{
    error::Error,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

/// What came of a request that hyper took.
type Sent = Result<Response<Incoming>, TrySendError<Request<Upload>>>;

/// A request waits for its answer.
pub(super) struct Silence<'r> {
    pub(super) upstream: &'r Upstream,
    pub(super) replica: &'r Replica,
    /// Of its body, when it has one: a long upload is not a slow answer.
    pub(super) progress: Option<Arc<Progress>>,
    pub(super) began: Instant,
    /// How long it waits, and whether it would be better off elsewhere.
    pub(super) terms: Terms<'r>,
}

impl Silence<'_> {
    /// Waits for the answer, for as long as somebody is there who may give it.
    pub(super) async fn bear(
        &self,
        sent: impl Future<Output = Sent>,
        alarm: &mut Alarm,
    ) -> Result<Response<Incoming>, Failed> {
        let mut sent = std::pin::pin!(sent);
        let patience = self.terms.response_timeout;
        let mut wait = KNOCK_EVERY.min(patience);
        let mut until = self.began + wait;
        loop {
            let sent_or_rung = poll_fn(|cx| match sent.as_mut().poll(cx) {
                Poll::Ready(sent) => Poll::Ready(Some(sent)),
                Poll::Pending => alarm.poll(until, cx).map(|()| None),
            });
            if let Some(sent) = sent_or_rung.await {
                return self.taken(sent);
            }
            let quiet = self.quiet();
            let Some(left) = patience.checked_sub(quiet).filter(|left| !left.is_zero()) else {
                return Err(Failed::TimedOut(patience));
            };
            if quiet >= wait
                && (self.terms.may_leave)()
                && let Some(told) = self.knock(sent.as_mut()).await
            {
                return told;
            }
            wait = KNOCK_EVERY.min(left);
            until = Instant::now() + wait;
        }
    }

    /// For how long nothing has moved.
    fn quiet(&self) -> Duration {
        match &self.progress {
            Some(progress) => Duration::from_millis(progress.quiet_ms()),
            None => self.began.elapsed(),
        }
    }

    /// Finds out whether the replica's host is there. `None`: it is, or somebody else is finding out.
    async fn knock(
        &self,
        sent: Pin<&mut impl Future<Output = Sent>>,
    ) -> Option<Result<Response<Incoming>, Failed>> {
        let gone = || Some(Err(Failed::Lost("its node does not answer".into())));
        if !self.replica.is_reachable() {
            return gone();
        }
        let _knock = self.replica.knock()?;
        tokio::select! {
            biased;
            sent = sent => Some(self.taken(sent)),
            _ = self.upstream.reach(self.replica) => {
                if self.replica.is_reachable() { None } else { gone() }
            }
        }
    }

    fn taken(&self, sent: Sent) -> Result<Response<Incoming>, Failed> {
        sent.map_err(|mut error| {
            if let Some(fault) = self.progress.as_ref().and_then(|progress| progress.fault()) {
                return Failed::Body(fault);
            }
            let unsent = error.take_message();
            let cause = zectre_service::problem::chain(error.error());
            match unsent {
                Some(request) => Failed::Unsent(Box::new(request), cause),
                None if error.error().is_parse_too_large() => Failed::Oversized,
                None if error.error().is_parse() => Failed::Garbled(cause),
                None if let Some(is_leaving) = unprocessed(error.error()) => {
                    Failed::Refused { cause, is_leaving }
                }
                None => Failed::Lost(cause),
            }
        })
    }
}

/// Whether an HTTP/2 server said of a request that it has not begun with it (RFC 9113, section 8.7), and then whether it
/// is on its way out: GOAWAY with an earlier last stream, or REFUSED_STREAM. (A stream that GOAWAY does not give back
/// ends in another error.)
fn unprocessed(error: &hyper::Error) -> Option<bool> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    if !error.is_remote() {
        return None;
    }
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    (error.is_go_away() || refused).then(|| error.is_go_away())
}
