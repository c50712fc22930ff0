//! `POST /api/v1/artifacts/{id}/upload`: the body is hashed while it is written; nothing is kept in memory.

use super::App;
use crate::{
    blobs::Whole,
    digest::Digest,
    error::Error,
    store::artifacts::{self, ArtifactRow},
};
use axum::{
    body::{Body, BodyDataStream},
    extract::State,
};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, header::CONTENT_LENGTH};
use std::time::Duration;
use zectre_common::{id::ArtifactId, wire::artifact::StoredArtifact};
use zectre_service::{
    extract::{Json, Path},
    problem::Failure,
    token::name,
};

/// A client that sends nothing for so long has gone.
const STALL: Duration = Duration::from_secs(30);
/// However much trickles in, an upload ends.
const UPLOAD_MAX: Duration = Duration::from_secs(3_600);
/// Read from a client whose upload is refused, so that it gets to see the answer instead of a broken
/// connection; and for how long.
const REFUSED_BYTES_MAX: u64 = 16 << 20;
const REFUSED_WAIT: Duration = Duration::from_secs(5);

/// Takes the content of an announced artifact in.
pub async fn upload(
    State(app): State<App>,
    Path(id): Path<ArtifactId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<StoredArtifact>, Failure> {
    super::authorize(&app, &headers, &[name::API, name::BUILD])?;
    let mut body = body.into_data_stream();
    let outcome = tokio::time::timeout(UPLOAD_MAX, receive(&app, id, &headers, &mut body)).await;
    let outcome = outcome.unwrap_or(Err(Error::Stalled(UPLOAD_MAX.as_secs())));
    if outcome.is_err() {
        let drained = tokio::time::timeout(REFUSED_WAIT, drain(&mut body)).await;
        tracing::debug!(drained = drained.is_ok(), "an upload was refused");
    }
    Ok(Json(outcome?))
}

async fn receive(
    app: &App,
    id: ArtifactId,
    headers: &HeaderMap,
    body: &mut BodyDataStream,
) -> Result<StoredArtifact, Error> {
    let announced = Digest::announced(headers)?;
    let row = artifacts::get(&app.pool, id).await?.ok_or(Error::NotFound(id))?;
    if let (Some(announced), Some(held)) = (&announced, &row.digest)
        && announced != held
    {
        return Err(Error::Immutable(id));
    }
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > app.artifact_bytes_max) {
        return Err(Error::TooLarge(app.artifact_bytes_max));
    }
    let whole = take(app, body).await?;
    if whole.size == 0 {
        return Err(Error::Empty);
    }
    if let Some(announced) = announced
        && announced != whole.digest
    {
        return Err(Error::Mismatch {
            announced,
            actual: whole.digest,
        });
    }
    store(app, id, &row, whole).await
}

async fn take(app: &App, body: &mut BodyDataStream) -> Result<Whole, Error> {
    let mut incoming = app.blobs.begin()?;
    while let Some(data) = next(body).await? {
        app.transfers.received.inc_by(data.len() as u64);
        if incoming.size() + data.len() as u64 > app.artifact_bytes_max {
            return Err(Error::TooLarge(app.artifact_bytes_max));
        }
        incoming.write(data).await?;
    }
    incoming.finish().await
}

async fn next(body: &mut BodyDataStream) -> Result<Option<Bytes>, Error> {
    let next = tokio::time::timeout(STALL, body.next())
        .await
        .map_err(|_| Error::Stalled(STALL.as_secs()))?;
    next.transpose().map_err(|_| Error::Aborted)
}

/// Names the content and makes the row ready. The row decides when two uploads race: the loser gets the
/// winner's answer if both brought the same content.
async fn store(app: &App, id: ArtifactId, row: &ArtifactRow, whole: Whole) -> Result<StoredArtifact, Error> {
    let (digest, size) = (whole.digest.clone(), whole.size);
    let stored = StoredArtifact {
        id,
        size,
        sha256: digest.to_string(),
    };
    if row.digest.as_ref().is_some_and(|held| *held != digest) {
        return Err(Error::Immutable(id));
    }
    let won = app
        .blobs
        .put(whole, artifacts::make_ready(&app.pool, id, &digest, size))
        .await?;
    if won {
        return Ok(stored);
    }
    match artifacts::get(&app.pool, id).await? {
        None => Err(Error::NotFound(id)),
        Some(row) if row.digest == Some(digest) => Ok(stored),
        Some(_) => Err(Error::Immutable(id)),
    }
}

async fn drain(body: &mut BodyDataStream) {
    let mut left = REFUSED_BYTES_MAX;
    while let Some(Ok(data)) = body.next().await {
        left = left.saturating_sub(data.len() as u64);
        if left == 0 {
            return;
        }
    }
}
