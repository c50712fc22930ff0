//! One build: its state, a hint to look for it, and its end on demand.

use super::App;
use crate::{error::Error, store};
use axum::extract::State;
use http::StatusCode;
use zectre_common::{id::BuildId, state::BuildStatus, wire::build::Build};
use zectre_service::{
    extract::{Json, Path},
    problem::Failure,
};

/// `POST /api/v1/builds`: there may be a new row. Losing this only delays.
pub async fn nudge(State(app): State<App>) -> StatusCode {
    app.nudges.nudge_builds();
    StatusCode::ACCEPTED
}

/// `GET /api/v1/builds/{id}`
pub async fn get(State(app): State<App>, Path(id): Path<BuildId>) -> Result<Json<Build>, Failure> {
    let build = store::builds::get(&app.pool, id)
        .await?
        .ok_or(Error::NotFound(id))?;
    Ok(Json(build))
}

/// `POST /api/v1/builds/{id}/cancel`: 200 when it has ended cancelled, 202 while its worker is still to stop.
pub async fn cancel(
    State(app): State<App>,
    Path(id): Path<BuildId>,
) -> Result<(StatusCode, Json<Build>), Failure> {
    let build = store::builds::cancel(&app.pool, id)
        .await?
        .ok_or(Error::NotFound(id))?;
    match build.status {
        BuildStatus::Cancelled => Ok((StatusCode::OK, Json(build))),
        BuildStatus::Queued | BuildStatus::Running => Ok((StatusCode::ACCEPTED, Json(build))),
        BuildStatus::Succeeded | BuildStatus::Failed => Err(Error::Ended(id, build.status).into()),
    }
}
