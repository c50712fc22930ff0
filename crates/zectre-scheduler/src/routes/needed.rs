//! What nodes must not drop.

use super::App;
use crate::error::Error;
use axum::extract::State;
use http::HeaderMap;
use zectre_common::wire::scheduler::{NEEDED_MAX, NeededRequest, NeededResponse};
use zectre_service::{auth, extract::Json, problem::Failure, token::name};

/// `POST /nodes/needed`: PostgreSQL knows; it needs no leader.
pub(super) async fn needed(
    State(app): State<App>,
    headers: HeaderMap,
    Json(request): Json<NeededRequest>,
) -> Result<Json<NeededResponse>, Failure> {
    let node_id = auth::node(&app.key, &headers, name::SCHEDULER)?;
    if node_id != request.node_id {
        return Err(Failure::forbidden(
            "a node speaks for itself only: node_id is not the one of the token",
        ));
    }
    if request.artifacts.len() > NEEDED_MAX || request.images.len() > NEEDED_MAX {
        return Err(Failure::bad_request(
            "TOO_MANY_NAMES",
            format!("ask about at most {NEEDED_MAX} at once"),
        ));
    }
    if !app.store.has_node(node_id).await.map_err(Error::from)? {
        return Err(Error::UnknownNode(node_id).into());
    }
    let (artifacts, images) = app
        .store
        .needed(&request.artifacts, &request.images)
        .await
        .map_err(Error::from)?;
    Ok(Json(NeededResponse { artifacts, images }))
}
