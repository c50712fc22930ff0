//! What the API asks: look at the operations now, wake a deployment, how are you.

use super::App;
use crate::{core::Event, engine, error::Error, handle::Handle, sync, wake::WakeReply};
use axum::extract::State;
use http::StatusCode;
use std::time::Duration;
use uuid::Uuid;
use zectre_common::wire::{
    deployment::WakeResponse,
    scheduler::{NudgeRequest, SchedulerStatus, WAKE_WAIT_MS_MAX, WakeRequest},
};
use zectre_service::{
    extract::{Json, Path},
    problem::Failure,
};

/// `POST /scheduler/deploy` and `/assign-pending`: what is wanted is in the database already.
pub(super) async fn nudge(
    State(app): State<App>,
    Json(_): Json<NudgeRequest>,
) -> Result<StatusCode, Failure> {
    sync::operations(&app.store, &app.term()?.engine).await?;
    Ok(StatusCode::ACCEPTED)
}

/// `POST /scheduler/reconcile-deployment/{id}` and `/stop-task/{id}`: the same; the id is only a hint.
pub(super) async fn nudge_one(State(app): State<App>, Path(_): Path<Uuid>) -> Result<StatusCode, Failure> {
    sync::operations(&app.store, &app.term()?.engine).await?;
    Ok(StatusCode::ACCEPTED)
}

/// `POST /scheduler/wake`
pub(super) async fn wake(
    State(app): State<App>,
    Json(request): Json<WakeRequest>,
) -> Result<Json<WakeResponse>, Failure> {
    let engine = app.term()?.engine;
    let id = request.deployment_id;
    let wait_ms = request.wait_ms.min(WAKE_WAIT_MS_MAX);
    if wait_ms == 0 {
        return wake_later(&app, &engine, request).await;
    }
    let woken = async {
        let reply = engine.wake(id, request.unless_superseded).await?;
        if !matches!(reply, WakeReply::Unknown) {
            return Ok(reply);
        }
        // A superseded deployment that nobody used since this leader began.
        sync::load(&app.store, &engine, vec![id]).await?;
        engine.wake(id, request.unless_superseded).await
    };
    let reply = match tokio::time::timeout(Duration::from_millis(wait_ms), woken).await {
        Ok(reply) => reply?,
        Err(_) => return Err(Error::WakeTimeout(wait_ms).into()),
    };
    match reply {
        WakeReply::Ready(response) => Ok(Json(response)),
        WakeReply::Failed { reason, message } => Err(Error::Wake { reason, message }.into()),
        WakeReply::Unknown => Err(Error::NotFound(format!("there is no deployment {id}")).into()),
        WakeReply::Superseded => Err(Error::Superseded(id).into()),
        WakeReply::Overloaded => Err(Error::Overloaded.into()),
    }
}

/// Hands it in without waiting for a task.
async fn wake_later(app: &App, engine: &Handle, request: WakeRequest) -> Result<Json<WakeResponse>, Failure> {
    let id = request.deployment_id;
    let known = engine
        .look(move |cluster| cluster.deployment(id).is_some())
        .await?;
    if !known && sync::load(&app.store, engine, vec![id]).await? == 0 {
        return Err(Error::NotFound(format!("there is no deployment {id}")).into());
    }
    if request.unless_superseded && engine.look(move |cluster| cluster.comes_back(id)).await? {
        return Err(Error::Superseded(id).into());
    }
    engine.apply(Event::Wake(id)).await?;
    Ok(Json(WakeResponse::default()))
}

/// `GET /scheduler/status`
pub(super) async fn status(State(app): State<App>) -> Result<Json<SchedulerStatus>, Failure> {
    let term = app.term.borrow().clone();
    let Some(term) = term else {
        let leader = app.store.leader().await.map_err(Error::from)?;
        return Ok(Json(SchedulerStatus {
            leader: false,
            epoch: leader.epoch,
            leading_since: None,
            nodes_ready: 0,
            tasks_live: 0,
            rollouts: 0,
        }));
    };
    let (nodes_ready, tasks_live, rollouts) = term.engine.look(engine::counts).await?;
    Ok(Json(SchedulerStatus {
        leader: true,
        epoch: term.epoch,
        leading_since: Some(term.since),
        nodes_ready,
        tasks_live,
        rollouts,
    }))
}
