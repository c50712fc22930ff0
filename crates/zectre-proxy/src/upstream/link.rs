//! One connection to a task, on loan to a request.

use super::{pool::Pool, shared::Stream};
use crate::{
    ingress::body::Upload,
    live::{Pace, Replica},
};
use hyper::client::conn::http1;
use std::sync::{Arc, Weak};
use zectre_common::id::TaskId;

/// What requests are handed to.
#[derive(Debug)]
pub(super) enum Sender {
    /// One request at a time.
    Http1(http1::SendRequest<Upload>),
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
}

impl Link {
    pub(super) fn new(replica: &Replica, sender: Sender, pool: &Arc<Pool>) -> Self {
        Self {
            task: replica.task(),
            sender,
            pool: Arc::downgrade(pool),
            pace: Arc::clone(replica.pace()),
            last: false,
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
        if let (Sender::Http1(sender), Some(pool)) = (self.sender, self.pool.upgrade()) {
            pool.put(self.task, sender, &self.pace);
        }
    }
}
