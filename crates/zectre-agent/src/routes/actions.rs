//! Orders from the scheduler.

use super::Shared;
use axum::extract::State;
use http::StatusCode;
use zectre_common::wire::agent::{ACTIONS_MAX, ActionsRequest, ActionsResponse};
use zectre_service::{extract::Json, problem::Failure};

/// `POST /api/v1/actions`: 202, accepted and not done.
pub(super) async fn post_actions(
    State(shared): State<Shared>,
    Json(request): Json<ActionsRequest>,
) -> Result<(StatusCode, Json<ActionsResponse>), Failure> {
    if request.actions.len() > ACTIONS_MAX {
        return Err(Failure::bad_request(
            "TOO_MANY_ACTIONS",
            format!("send at most {ACTIONS_MAX} actions at once"),
        ));
    }
    let response = shared.orders.obey(request.leader_epoch, request.actions)?;
    Ok((StatusCode::ACCEPTED, Json(response)))
}
