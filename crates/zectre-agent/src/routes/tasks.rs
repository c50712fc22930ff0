//! The tasks on this node, and their output as it comes.

use super::Shared;
use axum::{
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, StreamExt, stream};
use http::HeaderMap;
use std::convert::Infallible;
use tokio_stream::wrappers::BroadcastStream;
use zectre_common::{
    id::TaskId,
    wire::{agent::TaskReport, log::LogLine},
};
use zectre_service::{
    extract::{Json, Path},
    problem::Failure,
};

/// `GET /api/v1/tasks`
pub(super) async fn list(State(shared): State<Shared>) -> Json<Vec<TaskReport>> {
    Json(shared.host.board.digest())
}

/// `GET /api/v1/tasks/{id}/logs/stream`: the last lines, then all that follow. `Last-Event-ID` leaves out what was
/// seen. A watcher that is too slow misses lines here; the API has them all.
pub(super) async fn stream_logs(
    State(shared): State<Shared>,
    Path(task): Path<TaskId>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let live = shared.host.board.live(task);
    let live = live.ok_or_else(|| Failure::not_found(format!("task {task} is not on this node")))?;
    let seen = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse::<u64>().ok())
        .unwrap_or(0);
    let (tail, follow) = live.watch();
    let follow = BroadcastStream::new(follow).filter_map(|line| std::future::ready(line.ok()));
    let lines = stream::iter(tail)
        .chain(follow)
        .filter(move |line| std::future::ready(line.seq > seen));
    let events = lines.map(|line| Ok(event(&line)));
    let shutdown = shared.shutdown.clone();
    let events = events.take_until(async move { shutdown.requested().await });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

fn event(line: &LogLine) -> Event {
    let event = Event::default().id(line.seq.to_string());
    event.json_data(line).expect("a line is plain text and numbers")
}
