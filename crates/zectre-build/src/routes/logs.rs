//! `GET /api/v1/builds/{id}/logs/stream`: the log as Server-Sent Events, `id` = sequence number, so that
//! `Last-Event-ID` goes on without gap or repeat. The last event is `end`, with the build.

use super::App;
use crate::{error::Error, store};
use axum::{
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, StreamExt, stream};
use http::HeaderMap;
use std::{convert::Infallible, time::Duration};
use tokio::sync::watch;
use zectre_common::{id::BuildId, wire::build::Build, wire::log::LogLine};
use zectre_service::{extract::Path, problem::Failure};

/// Lines read at once.
const PAGE_LINES: i64 = 500;
/// Looked at this often even without a hint.
const POLL: Duration = Duration::from_secs(2);

/// Follows a log to the build's end.
pub async fn stream(
    State(app): State<App>,
    Path(id): Path<BuildId>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    store::builds::get(&app.pool, id)
        .await?
        .ok_or(Error::NotFound(id))?;
    let last = match headers.get("last-event-id") {
        None => 0,
        Some(last) => last
            .to_str()
            .ok()
            .and_then(|last| last.parse().ok())
            .ok_or_else(|| {
                Failure::bad_request(
                    "INVALID_LAST_EVENT_ID",
                    "Last-Event-ID must be the id of an event of this stream",
                )
            })?,
    };
    let (logs, builds) = (app.nudges.logs(), app.nudges.builds());
    let follower = Follower {
        app,
        id,
        last,
        logs,
        builds,
        ended: false,
    };
    let pages = stream::unfold(follower, async |mut follower| {
        Some((follower.page().await?, follower))
    });
    let events = pages.flat_map(stream::iter).map(Ok);
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

struct Follower {
    app: App,
    id: BuildId,
    last: u64,
    logs: watch::Receiver<u64>,
    builds: watch::Receiver<u64>,
    ended: bool,
}

impl Follower {
    /// The next events, as soon as there are any; `None` after the end. An error of the database ends the
    /// stream: the client comes back with the last id.
    async fn page(&mut self) -> Option<Vec<Event>> {
        while !self.ended && !self.app.shutdown.is_requested() {
            self.logs.mark_unchanged();
            self.builds.mark_unchanged();
            // The state first: lines are stored before the end, so an ended build's lines are all there.
            let build = store::builds::get(&self.app.pool, self.id).await.ok()??;
            let lines = store::logs::after(&self.app.pool, self.id, self.last, PAGE_LINES)
                .await
                .ok()?;
            let whole = (lines.len() as i64) < PAGE_LINES;
            self.last = lines.last().map_or(self.last, |line| line.seq);
            let mut events: Vec<Event> = lines.iter().map(line_event).collect();
            if whole && build.status.is_ended() {
                self.ended = true;
                events.push(end_event(&build));
            }
            if !events.is_empty() {
                return Some(events);
            }
            tokio::select! {
                () = self.app.shutdown.requested() => {}
                _ = self.logs.changed() => {}
                _ = self.builds.changed() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
        None
    }
}

fn line_event(line: &LogLine) -> Event {
    let event = Event::default().id(line.seq.to_string());
    event
        .json_data(line)
        .expect("a line is plain strings and numbers")
}

fn end_event(build: &Build) -> Event {
    let event = Event::default().event("end");
    event
        .json_data(build)
        .expect("a build is plain strings and numbers")
}
