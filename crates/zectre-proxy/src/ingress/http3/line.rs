//! What a connection's streams have to do with each other: how much of nothing may come on them, and whether new ones are
//! still taken.

use crate::ingress::{
    frames::Allowance,
    rate::{Meter, Rate},
};
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

/// Ready when the client wants no answer any more; `true` when it said so.
pub(super) type Unwanted = Pin<Box<dyn Future<Output = bool> + Send + Sync>>;

/// Shared by all streams of a connection.
pub(super) struct Line {
    started: Instant,
    allowance: Allowance,
    resets: Meter,
    idle: Meter,
    flooded: AtomicBool,
    leaving: AtomicBool,
    /// Of the request that was taken last: the library does not tell.
    unwanted: Mutex<Option<Unwanted>>,
    pub(super) head_bytes_max: u64,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("flooded", &self.flooded)
            .field("leaving", &self.leaving)
            .finish_non_exhaustive()
    }
}

impl Line {
    /// Of a connection that begins now; a block of headers may have so many bytes.
    pub(super) fn new(allowance: Allowance, head_bytes_max: u64) -> Self {
        Self {
            started: Instant::now(),
            allowance,
            resets: Meter::default(),
            idle: Meter::default(),
            flooded: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            unwanted: Mutex::new(None),
            head_bytes_max,
        }
    }

    /// A request was taken back; whether there have been too many of them.
    pub(super) fn took_back(&self) -> bool {
        self.flooded_by(&self.resets, self.allowance.resets, 1)
    }

    /// So many frames came that carry nothing; whether there have been too many of them.
    pub(super) fn idled(&self, frames: u32) -> bool {
        self.flooded_by(&self.idle, self.allowance.idle, frames)
    }

    fn flooded_by(&self, meter: &Meter, rate: Option<Rate>, times: u32) -> bool {
        let now_ns = self.started.elapsed().as_nanos() as u64;
        if let Some(rate) = rate
            && (0..times).any(|_| meter.take(rate, now_ns).is_err())
        {
            self.flooded.store(true, Relaxed);
        }
        self.has_flooded()
    }

    /// Whether more came that carries nothing than from anybody who means well.
    pub(super) fn has_flooded(&self) -> bool {
        self.flooded.load(Relaxed)
    }

    /// No request is taken from now on.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Relaxed);
    }

    /// Whether requests are sent back.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    /// A request is taken.
    pub(super) fn take(&self, unwanted: Unwanted) {
        *self.unwanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(unwanted);
    }

    /// When the request that was taken last is not wanted any more.
    pub(super) fn unwanted(&self) -> Option<Unwanted> {
        self.unwanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}
