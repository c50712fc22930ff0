//! The activity feed.

use crate::{
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::Error,
    fanout::Hint,
    page::list_query,
    policy::{Policy, Reach},
    sse::{self, BATCH_ROWS, Batch, Feed},
    store::event::{self, Filter, Known, Position},
};
use axum::{extract::State, response::Response};
use http::HeaderMap;
use serde::Deserialize;
use sqlx::PgPool;
use std::time::Duration;
use utoipa::IntoParams;
use utoipa_axum::routes;
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
        endpoint(Policy::Member(Role::Viewer), routes!(stream)),
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
    };
    let (rows, total) = event::list(&context.pool, &filter, &window).await?;
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
               responses((status = 200, description = "Events `event`, each an Event", content_type = "text/event-stream")))]
async fn stream(
    State(context): State<Context>,
    reach: Reach,
    Query(query): Query<EventStreamQuery>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let filter = Filter {
        reach: reach.organizations(),
        application_id: query.application_id,
        deployment_id: query.deployment_id,
        action: None,
    };
    let (position, known) = match sse::last_event_id(&headers)? {
        Some(position) => (position, None),
        None => {
            let (position, known) = event::now(&context.pool).await?;
            (position, Some(known))
        }
    };
    sse::stream(
        &context,
        EventFeed {
            pool: context.pool.clone(),
            filter,
            position,
            known,
        },
    )
}

struct EventFeed {
    pool: PgPool,
    filter: Filter,
    position: Position,
    known: Option<Known>,
}

impl Feed for EventFeed {
    async fn look(&mut self) -> Result<Batch, Error> {
        let (position, known) = (self.position, self.known.as_ref());
        let rows = event::after(&self.pool, &self.filter, position, known, BATCH_ROWS).await?;
        if let Some((last, _)) = rows.last() {
            self.position = *last;
        }
        let events = rows
            .iter()
            .map(|(position, event)| sse::json_event(Some(position.to_string()), "event", event));
        Ok(Batch {
            events: events.collect::<Result<_, _>>()?,
            ended: false,
        })
    }

    fn concerns(&self, hint: Hint) -> bool {
        hint == Hint::Events
    }

    fn resync(&self) -> Duration {
        Duration::from_secs(10)
    }
}
