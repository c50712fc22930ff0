//! `Idempotency-Key`: a POST that creates, repeated with its key, has one effect and one answer.
//!
//! The answer is kept sealed, because some answers hold a secret that is shown once. A request that was cut
//! off between its effect and its answer leaves the key taken: the repeat is refused rather than done twice.

use crate::{
    code,
    context::Context,
    error::{Error, refuse},
    identity::Person,
    store::idempotency,
};
use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use zectre_common::{id::UserId, wire::problem::CONTENT_TYPE as PROBLEM};
use zectre_service::{extract::too_large, seal};

const HEADER: &str = "idempotency-key";
const KEY_BYTES_MAX: usize = 255;
/// The largest answer that is kept; creations answer with one resource.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Runs the request once for each key.
pub(crate) async fn once(State(context): State<Context>, request: Request, next: Next) -> Response {
    let person = request.extensions().get::<Person>().map(|person| person.id);
    match (person, key_of(request.headers())) {
        (_, Err(error)) => error.into_response(),
        (Some(user), Ok(Some(key))) => run(&context, user, &key, request, next)
            .await
            .unwrap_or_else(|response| response),
        _ => next.run(request).await,
    }
}

fn key_of(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(value) = headers.get(HEADER) else {
        return Ok(None);
    };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()));
    key.map(|key| Some(key.to_owned())).ok_or_else(|| {
        refuse(
            &code::INVALID_IDEMPOTENCY_KEY,
            "`Idempotency-Key` must be 1 to 255 visible ASCII characters",
        )
    })
}

async fn run(
    context: &Context,
    user: UserId,
    key: &str,
    request: Request,
    next: Next,
) -> Result<Response, Response> {
    let (request, hash) = hashed(context, request).await?;
    let failed = |error: Error| error.into_response();
    if !idempotency::claim(&context.pool, user, key, &hash)
        .await
        .map_err(failed)?
    {
        return Err(repeat(context, user, key, &hash).await.unwrap_or_else(failed));
    }
    let response = next.run(request).await;
    if !response.status().is_success() {
        // Refused without effect: the same key may try again.
        idempotency::release(&context.pool, user, key)
            .await
            .map_err(failed)?;
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, ANSWER_BYTES_MAX)
        .await
        .map_err(|error| failed(Error::Internal(format!("an answer could not be kept: {error}"))))?;
    let text = String::from_utf8_lossy(&bytes);
    let sealed = serde_json::Value::String(STANDARD.encode(seal::seal(
        &context.master_key,
        &purpose(user, key),
        &text,
    )));
    let status = i32::from(parts.status.as_u16());
    idempotency::keep(&context.pool, user, key, status, &sealed)
        .await
        .map_err(failed)?;
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

/// The request with its hash. JSON bodies count into it; archives, which are streamed, by length and digest.
async fn hashed(context: &Context, request: Request) -> Result<(Request, [u8; 32]), Response> {
    let mut hash = Sha256::new();
    hash.update(request.method().as_str());
    hash.update(request.uri().to_string());
    let is_json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_none_or(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !is_json {
        for name in [header::CONTENT_LENGTH.as_str(), "digest", "x-content-sha256"] {
            hash.update(
                request
                    .headers()
                    .get(name)
                    .map_or(&b""[..], HeaderValue::as_bytes),
            );
            hash.update([0]);
        }
        return Ok((request, hash.finalize().into()));
    }
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, context.settings.body_bytes_max)
        .await
        .map_err(|_| too_large().into_response())?;
    hash.update(&bytes);
    Ok((
        Request::from_parts(parts, Body::from(bytes)),
        hash.finalize().into(),
    ))
}

async fn repeat(context: &Context, user: UserId, key: &str, hash: &[u8]) -> Result<Response, Error> {
    let in_progress = || {
        let detail = "the first request with this Idempotency-Key has not been answered; look whether its effect is there";
        refuse(&code::IDEMPOTENCY_IN_PROGRESS, detail)
    };
    let kept = idempotency::get(&context.pool, user, key)
        .await?
        .ok_or_else(in_progress)?;
    if kept.request_hash != hash {
        return Err(refuse(
            &code::IDEMPOTENCY_KEY_REUSED,
            "this Idempotency-Key was used for another request; use a new one",
        ));
    }
    let (Some(status), Some(serde_json::Value::String(sealed))) = (kept.status, kept.body) else {
        return Err(in_progress());
    };
    let damaged = |_| Error::Internal("a kept answer does not open".into());
    let sealed = STANDARD
        .decode(sealed)
        .map_err(|_| Error::Internal("a kept answer is damaged".into()))?;
    let text = seal::open(&context.master_key, &purpose(user, key), &sealed).map_err(damaged)?;
    let status = u16::try_from(status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or_else(|| Error::Internal("a kept answer has no status".into()))?;
    let kind = if status.is_success() {
        "application/json"
    } else {
        PROBLEM
    };
    let mut response = (status, text.expose_secret().to_owned()).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
        .headers_mut()
        .insert("idempotency-replayed", HeaderValue::from_static("true"));
    Ok(response)
}

fn purpose(user: UserId, key: &str) -> String {
    format!("idempotency:{user}:{key}")
}
