//! One connection to a task, on loan to a request.

use super::{pool::Pool, rest::Rests, shared::Stream};
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
    /// When the rest before it began; nothing for a new one.
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
            rested_since: None,
        }
    }

    /// The same, after a rest.
    pub(super) fn rested_since(self, since: Instant) -> Self {
        Self {
            rested_since: Some(since),
            ..self
        }
    }

    /// It ended without an answer to the request that it was lent for at `asked`.
    pub(super) fn broke(&self, asked: Instant) {
        if let (Sender::Http1(single), Some(since)) = (&self.sender, self.rested_since) {
            single.rests.broke(since, asked, Instant::now());
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
