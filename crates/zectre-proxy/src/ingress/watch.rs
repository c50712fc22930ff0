//! A [`Pace`] with a clock: whoever waits for a client asks it whether that has been too long.

use super::pace::Pace;
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::time::{Sleep, sleep_until};

/// Looks whether a client keeps moving.
#[derive(Debug)]
pub struct Watch {
    pace: Pace,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    /// By `pace`; its windows must not be zero.
    pub fn new(pace: Pace) -> Self {
        Self {
            pace,
            waiting_since: None,
            timer: None,
        }
    }

    /// Something came; whether it was too little for the time that was waited.
    pub fn moved(&mut self, bytes: u64) -> bool {
        self.pace.moved(bytes);
        let waited = self
            .waiting_since
            .take()
            .map_or(Duration::ZERO, |since| since.elapsed());
        self.pace.waited(waited)
    }

    /// Nothing has come; whether that has lasted too long, and if not, wakes the task when it has.
    pub fn is_too_slow(&mut self, cx: &mut Context<'_>) -> bool {
        let until = |pace: &Pace| tokio::time::Instant::now() + pace.left();
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(until(&self.pace))));
        if self.waiting_since.is_none() {
            self.waiting_since = Some(Instant::now());
            timer.as_mut().reset(until(&self.pace));
        }
        while timer.as_mut().poll(cx) == Poll::Ready(()) {
            let now = Instant::now();
            let waited = self
                .waiting_since
                .replace(now)
                .map_or(Duration::ZERO, |since| now - since);
            if self.pace.waited(waited) {
                return true;
            }
            timer.as_mut().reset(until(&self.pace));
        }
        false
    }
}
