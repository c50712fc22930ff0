//! The activity feed.

use crate::handler::routes;
use crate::{
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::Error,
    fanout::Hint,
    page::list_query,
    policy::{Policy, Reach, Standing},
    sse::{self, BATCH_ROWS, Batch, Feed},
    store::event::{self, Filter, Known, Position},
};
use axum::{extract::State, response::Response};
use http::HeaderMap;
use serde::Deserialize;
use sqlx::PgPool;
use std::{fmt, str::FromStr, time::Duration};
use utoipa::IntoParams;
use zectre_common::{
    id::{ApplicationId, DeploymentId},
    state::Role,
    wire::{event::Event, page::Page},
};
use zectre_service::extract::{Json, Query};

list_query! {
    /// Of events.
    EventsQuery sorted by EventSort { Time = "time" } largest first, filtered by {
        /// Only those about this application.
        application_id: ApplicationId,
        /// Only those about this deployment.
        deployment_id: DeploymentId,
        /// Only this action, e.g. `deployment.succeeded`.
        action: String,
    }
}

/// Of one deployment's events: the same without its id.
pub(super) mod of_deployment {
    use super::list_query;

    list_query! {
        /// Of a deployment's events.
        DeploymentEventsQuery sorted by DeploymentEventSort { Time = "time" } largest first, filtered by {
            /// Only this action, e.g. `deployment.succeeded`.
            action: String,
        }
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Member(Role::Viewer), routes!(list)),
        endpoint(Policy::Member(Role::Viewer), routes!(stream)).streams(),
    ]
}

/// What happened in your organizations, newest first.
#[utoipa::path(get, path = "/events", tag = "events", params(EventsQuery),
               responses((status = 200, description = "A page", body = Page<Event>)))]
async fn list(
    State(context): State<Context>,
    reach: Reach,
    Query(query): Query<EventsQuery>,
) -> Result<Json<Page<Event>>, Error> {
    let window = query.window()?;
    let filter = Filter {
        reach: reach.organizations(),
        application_id: query.application_id,
        deployment_id: query.deployment_id,
        action: query.action,
        audited: reach.audited(),
    };
    let (rows, total) = event::list(&context.lists, &filter, &window).await?;
    Ok(Json(window.page(rows, total)))
}

/// Which events a stream shows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventStreamQuery {
    /// Only those about this application.
    application_id: Option<ApplicationId>,
    /// Only those about this deployment.
    deployment_id: Option<DeploymentId>,
}

/// What happens from now on, as Server-Sent Events named `event`.
#[utoipa::path(get, path = "/events/stream", tag = "events",
               params(EventStreamQuery, ("Last-Event-ID" = Option<String>, Header, description = "Resumes after this event")),
               responses((status = 200, description = "First `position`, whose id resumes the stream too, then events `event`, each an Event; `refused`, a Problem, ends it where the caller may not see it any more", content_type = "text/event-stream")))]
async fn stream(
    State(context): State<Context>,
    standing: Standing,
    reach: Reach,
    Query(query): Query<EventStreamQuery>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let filter = Filter {
        reach: reach.organizations(),
        application_id: query.application_id,
        deployment_id: query.deployment_id,
        action: None,
        audited: reach.audited(),
    };
    let (place, fresh) = match sse::last_event_id(&headers)? {
        Some(place) => (place, false),
        None => {
            let (position, known) = event::now(&context.pool).await?;
            let known = Some(known);
            (Place { position, known }, true)
        }
    };
    sse::stream(
        &context,
        standing,
        EventFeed {
            pool: context.pool.clone(),
            filter,
            place,
            fresh,
        },
    )
}

struct EventFeed {
    pool: PgPool,
    filter: Filter,
    place: Place,
    fresh: bool,
}

/// Where a stream is: after this event, and without those that were known when it began. That is part of an id for as long as
/// one of them may still lie ahead, so that a resumed stream shows none of them either.
#[derive(Debug, Clone)]
struct Place {
    position: Position,
    known: Option<Known>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.position.fmt(f)?;
        match &self.known {
            Some(known) if known.reaches(self.position) => write!(f, ":{known}"),
            _ => Ok(()),
        }
    }
}

impl FromStr for Place {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let end = text.match_indices(':').nth(1).map(|(at, _)| at);
        let (position, known) = match end {
            Some(at) => (&text[..at], Some(text[at + 1..].parse()?)),
            None => (text, None),
        };
        Ok(Self {
            position: position.parse()?,
            known,
        })
    }
}

impl Feed for EventFeed {
    async fn look(&mut self) -> Result<Batch, Error> {
        let (position, known) = (self.place.position, self.place.known.as_ref());
        let rows = event::after(&self.pool, &self.filter, position, known, BATCH_ROWS).await?;
        let events = rows.iter().map(|(position, event)| {
            self.place.position = *position;
            sse::json_event(Some(self.place.to_string()), "event", event)
        });
        Ok(Batch {
            events: events.collect::<Result<_, _>>()?,
            ended: false,
        })
    }

    fn begin(&self) -> Option<String> {
        self.fresh.then(|| self.place.to_string())
    }

    fn reach(&mut self, reach: &Reach) {
        self.filter.reach = reach.organizations();
        self.filter.audited = reach.audited();
    }

    fn concerns(&self, hint: Hint) -> bool {
        hint == Hint::Events
    }

    fn resync(&self) -> Duration {
        Duration::from_secs(10)
    }
}
