//! One connection to a task, on loan to a request.

use super::{Failed, alarm::Alarm, pool::Pool, receipt::Receipt, rest::Rests, shared::Stream};
use crate::{
    ingress::body::Upload,
    live::{Pace, Replica},
};
use hyper::client::conn::http1;
use std::{
    sync::{Arc, Weak},
    time::Instant,
};
use zectre_common::id::TaskId;

/// A connection of HTTP/1.1.
#[derive(Debug)]
pub(super) struct Single {
    pub(super) sender: http1::SendRequest<Upload>,
    pub(super) rests: Arc<Rests>,
    pub(super) receipt: Arc<Receipt>,
    /// Of its requests. Like all of it, it is of the runtime on which the connection was made.
    pub(super) alarm: Alarm,
}

/// What requests are handed to.
#[derive(Debug)]
pub(super) enum Sender {
    /// One request at a time.
    Http1(Single),
    /// One of many: the pool keeps the connection.
    Http2(Stream),
}

/// The loan.
#[derive(Debug)]
pub struct Link {
    task: TaskId,
    sender: Sender,
    pool: Weak<Pool>,
    /// Who waits for it to be free again.
    pace: Arc<Pace>,
    /// Nothing is sent on it again.
    last: bool,
    /// It has served others.
    kept: bool,
    /// When the rest before it began; nothing for a new one, and for one of many.
    rested_since: Option<Instant>,
}

impl Link {
    pub(super) fn new(replica: &Replica, sender: Sender, pool: &Arc<Pool>) -> Self {
        Self {
            task: replica.task(),
            sender,
            pool: Arc::downgrade(pool),
            pace: Arc::clone(replica.pace()),
            last: false,
            kept: false,
            rested_since: None,
        }
    }

    /// The same, of a connection that was kept.
    pub(super) fn kept(self) -> Self {
        Self { kept: true, ..self }
    }

    /// The same, after a rest.
    pub(super) fn rested_since(self, since: Instant) -> Self {
        Self {
            rested_since: Some(since),
            ..self.kept()
        }
    }

    fn receipt(&self) -> &Receipt {
        match &self.sender {
            Sender::Http1(single) => &single.receipt,
            Sender::Http2(stream) => stream.receipt(),
        }
    }

    /// Bytes that were written on it before the request that it is on loan to.
    pub(super) fn written(&self) -> u64 {
        self.receipt().written()
    }

    /// What `failed` with what it was lent for when so many bytes had been written on it.
    pub(super) fn judge(&self, failed: Failed, before: u64) -> Failed {
        match failed {
            Failed::Lost(cause) if self.kept && self.receipt().ends_at(before) => Failed::Untaken(cause),
            failed => failed,
        }
    }

    /// It ended without an answer to the request that it was lent for at `asked`, which the task may have had if it is `lost`.
    pub(super) fn broke(&self, asked: Instant, lost: bool) {
        if let (Sender::Http1(single), Some(since)) = (&self.sender, self.rested_since) {
            single.rests.broke(since, asked, Instant::now(), lost);
        }
    }

    /// The request that it is on loan to is its last one.
    pub(super) fn retire(&mut self) {
        self.last = true;
    }

    pub(super) fn sender(&mut self) -> &mut Sender {
        &mut self.sender
    }

    /// The head of its answer is here.
    pub(super) fn answered(&self) {
        if let Sender::Http2(stream) = &self.sender {
            stream.answered();
        }
    }

    /// The answer has been read to its end: the connection may serve again.
    pub fn release(self) {
        if self.last {
            return;
        }
        if let (Sender::Http1(single), Some(pool)) = (self.sender, self.pool.upgrade()) {
            pool.put(self.task, single, &self.pace);
        }
    }
}
