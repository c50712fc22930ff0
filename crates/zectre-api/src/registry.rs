//! Bytes on their way to and from the registry: streamed, never held.

use crate::{
    code,
    context::Context,
    error::{Error, refuse},
    identity::Actor,
    quota::{Resource, Watch},
    store::{change::Change, upload as uploads},
};
use axum::{
    body::{Body, HttpBody},
    response::Response,
};
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::{convert::Infallible, time::Duration};
use uuid::Uuid;
use zectre_common::{
    id::{ArtifactId, OrganizationId},
    wire::artifact::StoredArtifact,
};
use zectre_service::{call::problem_of, problem::chain, token::name};

/// How long the registry may take to answer once it has all bytes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// An upload or download of which nothing moves for this long is cut off.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3_600);
/// The largest refusal that is read.
const PROBLEM_BYTES_MAX: usize = 64 << 10;
/// An upload has its artifact for this long after it last said that it goes on.
const UPLOAD_LEASE_SECS: u32 = 30;
/// How often it says so.
const UPLOAD_RENEW: Duration = Duration::from_secs(10);
const HASH_HEADERS: [&str; 2] = ["digest", "x-content-sha256"];

/// Streams `body` into the artifact of an organization; at most `bytes_max`. No second upload of the artifact begins meanwhile.
/// Where the organization has a quota of bytes, the announced ones are reserved before the first is sent on, and given back
/// when the upload fails, or is heard of no more.
pub(crate) async fn upload_of(
    context: &Context,
    actor: &Actor,
    (owner, id): (OrganizationId, ArtifactId),
    headers: &HeaderMap,
    body: Body,
    bytes_max: u64,
) -> Result<StoredArtifact, Error> {
    let mut change = Change::begin(&context.pool, actor).await?;
    let watch = Watch::begin(
        &mut change,
        &context.settings.quotas,
        owner,
        Resource::ArtifactBytes,
    )
    .await?;
    let reserves = match &watch {
        Some(_) => Some(announced(&body)?),
        None => None,
    };
    let this = Uuid::now_v7();
    if !uploads::begin(change.connection(), id, this, reserves, UPLOAD_LEASE_SECS).await? {
        return Err(Error::Refused {
            code: &code::ARTIFACT_UPLOADING,
            detail: format!(
                "another upload of artifact {id} is under way; wait for it, or make another artifact"
            ),
            errors: Vec::new(),
            retry_after_secs: Some(UPLOAD_LEASE_SECS),
        });
    }
    if let Some(watch) = watch {
        watch.check(&mut change).await?;
    }
    change.commit().await?;
    let stored = tokio::select! {
        stored = upload(context, id, headers, body, bytes_max) => stored,
        never = go_on(context, id, this) => match never {},
    };
    if stored.is_err() {
        uploads::give_back(&context.pool, id, this).await?;
    }
    stored
}

fn announced(body: &Body) -> Result<u64, Error> {
    body.size_hint().exact().ok_or_else(|| {
        refuse(
            &code::LENGTH_REQUIRED,
            "the organization has a quota of artifact bytes: say with `Content-Length` how many come",
        )
    })
}

/// Says that the upload goes on, for as long as it is asked to.
async fn go_on(context: &Context, id: ArtifactId, this: Uuid) -> Infallible {
    loop {
        tokio::time::sleep(UPLOAD_RENEW).await;
        if let Err(error) = uploads::go_on(&context.pool, id, this, UPLOAD_LEASE_SECS).await {
            tracing::warn!(%error, artifact = %id, "an upload could not say that it goes on; it will again");
        }
    }
}

async fn upload(
    context: &Context,
    id: ArtifactId,
    headers: &HeaderMap,
    body: Body,
    bytes_max: u64,
) -> Result<StoredArtifact, Error> {
    let too_large = || {
        refuse(
            &code::BODY_TOO_LARGE,
            format!("at most {bytes_max} bytes can be uploaded here"),
        )
    };
    if body.size_hint().lower() > bytes_max {
        return Err(too_large());
    }
    let url = format!("{}/api/v1/artifacts/{id}/upload", context.urls.registry);
    let mut request = context.caller.request(Method::POST, &url, name::REGISTRY);
    for copied in HASH_HEADERS
        .iter()
        .copied()
        .chain([header::CONTENT_LENGTH.as_str()])
    {
        if let Some(value) = headers.get(copied) {
            request = request.header(copied, value);
        }
    }
    let limited = Limited::new(body, usize::try_from(bytes_max).unwrap_or(usize::MAX));
    let request = request
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .body(reqwest::Body::wrap_stream(limited.into_data_stream()))
        .timeout(TRANSFER_TIMEOUT);
    let response = request.send().await.map_err(|error| {
        if caused_by_limit(&error) {
            too_large()
        } else {
            unreachable(&error)
        }
    })?;
    let status = response.status();
    let bytes = tokio::time::timeout(ANSWER_TIMEOUT, response.bytes())
        .await
        .map_err(|_| Error::Internal("the registry did not finish its answer".into()))?
        .map_err(|error| unreachable(&error))?;
    if !status.is_success() {
        return Err(refused(status, &bytes));
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::Internal(format!("the registry's answer makes no sense: {error}")))
}

/// Streams the artifact out, with ranges and conditions as the client gave them.
pub(crate) async fn download(
    context: &Context,
    id: ArtifactId,
    headers: &HeaderMap,
) -> Result<Response, Error> {
    const ASKED: [HeaderName; 6] = [
        header::RANGE,
        header::IF_RANGE,
        header::IF_NONE_MATCH,
        header::IF_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
    ];
    const ANSWERED: [HeaderName; 8] = [
        header::CONTENT_TYPE,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::ACCEPT_RANGES,
        header::ETAG,
        header::LAST_MODIFIED,
        header::CACHE_CONTROL,
        header::CONTENT_DISPOSITION,
    ];
    let url = format!("{}/api/v1/artifacts/{id}/download", context.urls.registry);
    let mut request = context
        .caller
        .request(Method::GET, &url, name::REGISTRY)
        .timeout(TRANSFER_TIMEOUT);
    for copied in ASKED {
        if let Some(value) = headers.get(&copied) {
            request = request.header(copied, value);
        }
    }
    let response = request.send().await.map_err(|error| unreachable(&error))?;
    let status = response.status();
    if !status.is_success() && status != StatusCode::NOT_MODIFIED {
        let bytes = Limited::new(Body::from_stream(response.bytes_stream()), PROBLEM_BYTES_MAX)
            .collect()
            .await;
        return Err(refused(
            status,
            &bytes.map(http_body_util::Collected::to_bytes).unwrap_or_default(),
        ));
    }
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    for copied in ANSWERED {
        if let Some(value) = response.headers().get(&copied) {
            answer.headers_mut().insert(copied, value.clone());
        }
    }
    *answer.body_mut() = Body::from_stream(response.bytes_stream());
    Ok(answer)
}

/// A refusal below 500 is the caller's; anything else is the platform's.
fn refused(status: StatusCode, body: &[u8]) -> Error {
    let problem = problem_of(status, body);
    if status.is_server_error() || status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
        tracing::error!(
            status = status.as_u16(),
            code = problem.code,
            "the registry refused: {}",
            problem.detail
        );
        return unavailable();
    }
    Error::Passed {
        problem: Box::new(problem),
        retry_after_secs: None,
    }
}

fn unreachable(error: &reqwest::Error) -> Error {
    tracing::error!(cause = chain(error), "the registry does not answer");
    unavailable()
}

fn unavailable() -> Error {
    Error::Refused {
        code: &code::SERVICE_UNAVAILABLE,
        detail: "the registry does not answer; try again".into(),
        errors: Vec::new(),
        retry_after_secs: Some(5),
    }
}

fn caused_by_limit(error: &reqwest::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<LengthLimitError>() {
            return true;
        }
        source = cause.source();
    }
    false
}
