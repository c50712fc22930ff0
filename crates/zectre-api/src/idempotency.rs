//! `Idempotency-Key`: a POST that creates, repeated with its key, has one effect and one answer.
//!
//! A request claims its key for a while, and its answer is kept in the very transaction that has the effect
//! ([`Claim::keep`], called by `routes::created`). So a request that was cut off either has its answer kept, or had
//! no effect: once its claim has run out, a repeat takes it over, and whoever lost the claim can't commit any more.
//! Answers are kept sealed, because some hold a secret that is shown once.

use crate::{
    code,
    context::Context,
    error::{Error, refuse},
    identity::{Actor, Person},
    routes::builds::is_archive,
    store::idempotency::{self, Kept},
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
use sqlx::PgConnection;
use std::{fmt, time::Duration};
use uuid::Uuid;
use zectre_common::id::UserId;
use zectre_service::{extract::too_large, seal};

const HEADER: &str = "idempotency-key";
const KEY_BYTES_MAX: usize = 255;
/// A claim outlives the request's time-out by this long; then whoever made it is taken for dead.
const CLAIM_MARGIN: Duration = Duration::from_secs(60);

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

/// The request's key.
pub(crate) fn key_of(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(value) = headers.get(HEADER) else {
        return Ok(None);
    };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()));
    key.map(|key| Some(key.to_owned())).ok_or_else(|| {
        refuse(
            &code::INVALID_IDEMPOTENCY_KEY,
            "`Idempotency-Key` must be 1 to 255 visible ASCII characters",
        )
    })
}

/// A request's hold on its key.
#[derive(Clone)]
pub(crate) struct Claim {
    context: Context,
    user: UserId,
    key: String,
    id: Uuid,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Claim").field(&self.id).finish()
    }
}

impl Claim {
    /// Of a request that makes its user, whose key nobody else can have: it is held with the user.
    pub(crate) fn new(context: &Context, user: UserId, key: &str) -> Self {
        Self {
            context: context.clone(),
            user,
            key: key.to_owned(),
            id: Uuid::now_v7(),
        }
    }

    /// Holds the key in the transaction that keeps the answer.
    pub(crate) async fn hold(&self, connection: &mut PgConnection, hash: &[u8]) -> Result<(), Error> {
        let lease = self.context.settings.request_timeout + CLAIM_MARGIN;
        idempotency::claim(connection, (self.user, &self.key), self.id, hash, lease)
            .await
            .map(drop)
    }

    /// Keeps a creation's answer in the transaction that creates. An error, when a repeat has taken over: then the
    /// transaction must not be committed.
    pub(crate) async fn keep(
        &self,
        connection: &mut PgConnection,
        location: &str,
        body: &str,
    ) -> Result<(), Error> {
        let sealed = seal::seal(
            &self.context.master_key,
            &seal::place::idempotency(self.user, &self.key),
            body,
        );
        let answer = idempotency::Answer {
            status: StatusCode::CREATED.as_u16().into(),
            body: &serde_json::Value::String(STANDARD.encode(sealed)),
            location,
        };
        if idempotency::keep(connection, (self.user, &self.key), self.id, &answer).await? {
            return Ok(());
        }
        let detail =
            "this took so long that a repeat of the request took over; the answer to that one counts";
        Err(refuse(&code::IDEMPOTENCY_IN_PROGRESS, detail))
    }
}

async fn run(
    context: &Context,
    user: UserId,
    key: &str,
    request: Request,
    next: Next,
) -> Result<Response, Response> {
    let (mut request, hash) = hashed(context, request).await?;
    let failed = |error: Error| error.into_response();
    let (id, lease) = (Uuid::now_v7(), context.settings.request_timeout + CLAIM_MARGIN);
    if !idempotency::claim(&context.pool, (user, key), id, &hash, lease)
        .await
        .map_err(failed)?
    {
        return Err(repeat(context, user, key, &hash).await.unwrap_or_else(failed));
    }
    if let Some(actor) = request.extensions_mut().get_mut::<Actor>() {
        actor.claim = Some(Claim {
            context: context.clone(),
            user,
            key: key.to_owned(),
            id,
        });
    }
    let response = next.run(request).await;
    if !response.status().is_success() {
        // Refused without effect: the same key may try again.
        idempotency::release(&context.pool, (user, key), id)
            .await
            .map_err(failed)?;
    }
    Ok(response)
}

/// The request with its hash. Bodies count into it; but archives, which are streamed, by length and digest. Only they: whatever else a
/// body is called, a handler may take it for JSON.
async fn hashed(context: &Context, request: Request) -> Result<(Request, [u8; 32]), Response> {
    let mut hash = Sha256::new();
    hash.update(request.method().as_str());
    hash.update(request.uri().to_string());
    if is_archive(request.headers()) {
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
    let read = to_bytes(body, context.settings.body_bytes_max);
    let Ok(read) = tokio::time::timeout(context.settings.request_timeout, read).await else {
        let detail = "the body did not come to its end in time; send it again";
        return Err(refuse(&code::INVALID_BODY, detail).into_response());
    };
    let bytes = read.map_err(|_| too_large().into_response())?;
    hash.update(&bytes);
    Ok((
        Request::from_parts(parts, Body::from(bytes)),
        hash.finalize().into(),
    ))
}

async fn repeat(context: &Context, user: UserId, key: &str, hash: &[u8]) -> Result<Response, Error> {
    let in_progress = |secs: f64| Error::Refused {
        code: &code::IDEMPOTENCY_IN_PROGRESS,
        detail: "the first request with this Idempotency-Key is still at work; repeat it to get its answer"
            .into(),
        errors: Vec::new(),
        retry_after_secs: Some(secs.clamp(1.0, 60.0) as u32),
    };
    // Released between the claim and this look: the key is free.
    let kept = idempotency::get(&context.pool, user, key)
        .await?
        .ok_or_else(|| in_progress(0.0))?;
    if kept.request_hash != hash {
        return Err(refuse(
            &code::IDEMPOTENCY_KEY_REUSED,
            "this Idempotency-Key was used for another request; use a new one",
        ));
    }
    match answer(context, user, key, &kept)? {
        Some(answer) => Ok(answer),
        None => Err(in_progress(kept.claimed_secs.unwrap_or(f64::MAX))),
    }
}

/// The answer that is kept under a user's key for the same request; `None` where there is none.
pub(crate) async fn kept(
    context: &Context,
    user: UserId,
    key: &str,
    hash: &[u8],
) -> Result<Option<Response>, Error> {
    match idempotency::get(&context.pool, user, key).await? {
        Some(kept) if kept.request_hash == hash => answer(context, user, key, &kept),
        _ => Ok(None),
    }
}

fn answer(context: &Context, user: UserId, key: &str, kept: &Kept) -> Result<Option<Response>, Error> {
    let (Some(status), Some(serde_json::Value::String(sealed))) = (kept.status, &kept.body) else {
        return Ok(None);
    };
    let damaged = |_| Error::Internal("a kept answer does not open".into());
    let sealed = STANDARD
        .decode(sealed)
        .map_err(|_| Error::Internal("a kept answer is damaged".into()))?;
    let text =
        seal::open(&context.master_key, &seal::place::idempotency(user, key), &sealed).map_err(damaged)?;
    let status = u16::try_from(status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or_else(|| Error::Internal("a kept answer has no status".into()))?;
    let mut response = (status, text.expose_secret().to_owned()).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(location) = kept
        .location
        .as_deref()
        .and_then(|location| HeaderValue::from_str(location).ok())
    {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
        .headers_mut()
        .insert("idempotency-replayed", HeaderValue::from_static("true"));
    Ok(Some(response))
}
