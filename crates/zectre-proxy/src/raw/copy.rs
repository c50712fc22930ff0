//! Bytes both ways. A side that has said all closes its direction, and that is handed on; the other direction goes on. What
//! ends in any other way ends for both sides as a broken connection, so that nobody takes a part for the whole.

use crate::metrics::{Counted, RawMetrics};
use rustix::net::sockopt;
use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::{io::copy_bidirectional_with_sizes, net::TcpStream};
use tokio_util::io::InspectReader;

/// Held for each direction of a connection.
const BUFFER_BYTES: usize = 16 << 10;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides said that they are done.
    Done,
    /// One of them broke it off.
    Broken,
    /// Nothing moved for too long.
    Idle,
}

/// From now on the socket's end is a reset, unless it is told [`ends_well`]: so no way out, whether an error, a time-out or
/// the end of the process, can look like the end of what was to be said.
pub(super) fn breaks_unless_told(stream: &TcpStream) -> io::Result<()> {
    Ok(sockopt::set_socket_linger(stream, Some(Duration::ZERO))?)
}

fn ends_well(stream: &TcpStream) -> io::Result<()> {
    Ok(sockopt::set_socket_linger(stream, None)?)
}

/// When something moved last.
struct Pulse {
    since: Instant,
    /// Milliseconds.
    last_ms: AtomicU64,
}

impl Pulse {
    fn beat(&self) {
        self.last_ms
            .store(self.since.elapsed().as_millis() as u64, Relaxed);
    }

    /// Resolves when nothing has moved for `idle`; never where that is zero.
    async fn stops(&self, idle: Duration) {
        if idle.is_zero() {
            return std::future::pending().await;
        }
        loop {
            let until = self.since + Duration::from_millis(self.last_ms.load(Relaxed)) + idle;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until.into()).await;
        }
    }
}

/// Joins the two until both are done, or one breaks off, or neither says anything for `idle`.
pub(super) async fn join(
    mut client: TcpStream,
    mut task: TcpStream,
    idle: Duration,
    metrics: &RawMetrics,
) -> End {
    let _open = Counted::new(&metrics.connections);
    let pulse = Pulse {
        since: Instant::now(),
        last_ms: AtomicU64::new(0),
    };
    let end = {
        let mut from_client = InspectReader::new(&mut client, |bytes| {
            metrics.received.inc_by(bytes.len() as u64);
            pulse.beat();
        });
        let mut from_task = InspectReader::new(&mut task, |bytes| {
            metrics.sent.inc_by(bytes.len() as u64);
            pulse.beat();
        });
        tokio::select! {
            copied = copy_bidirectional_with_sizes(&mut from_client, &mut from_task, BUFFER_BYTES, BUFFER_BYTES) => {
                if copied.is_ok() { End::Done } else { End::Broken }
            }
            () = pulse.stops(idle) => End::Idle,
        }
    };
    if end == End::Done {
        // What fails here was broken before.
        let _ = (ends_well(&client), ends_well(&task));
    }
    end
}
