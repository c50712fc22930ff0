//! `POST /oauth/token` and `POST /oauth/revoke`: a code or a refresh token in, tokens out, or an end.
//!
//! Whatever is used twice ends all that came of it: of two who have it one is a thief, and nobody can tell which.

use super::{
    App,
    form::{self, Parameters},
};
use crate::{
    claims::AccessClaims,
    config::CLI_CLIENT,
    core::{pkce, target},
    error::Error,
    secret::{self, Refresh},
    store::{codes, sessions, users},
};
use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sqlx::PgConnection;
use std::{net::IpAddr, time::Duration};
use uuid::Uuid;
use zectre_common::{
    id::UserId,
    time::Time,
    wire::catalog::{TokenRefusal, Tokens},
};
use zectre_service::{problem::Failure, server::Peer};

/// Why there are no tokens.
enum Denied {
    /// The client's fault, or its end.
    Refused(&'static str, &'static str),
    /// Ours.
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Denied {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let (error, description) = match self {
            Self::Refused(error, description) => (error, description),
            Self::Failed(error) => return Failure::from(error).into_response(),
        };
        let body = TokenRefusal {
            error: error.into(),
            error_description: description.into(),
        };
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    }
}

const BAD_GRANT: Denied = Denied::Refused(
    "invalid_grant",
    "the code or refresh token is not valid for this client, was used before, or has ended: sign in again",
);

/// `POST /oauth/token`
pub(super) async fn token(
    State(app): State<App>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let result = match form(&headers, &body) {
        Ok(form) => match form.get("grant_type") {
            Some("authorization_code") => by_code(&app, &form, peer.ip()).await,
            Some("refresh_token") => by_refresh_token(&app, &form, peer.ip()).await,
            _ => Err(Denied::Refused(
                "unsupported_grant_type",
                "`grant_type` must be `authorization_code` or `refresh_token`",
            )),
        },
        Err(denied) => Err(denied),
    };
    let mut response = match result {
        Ok(tokens) => Json(tokens).into_response(),
        Err(denied) => denied.into_response(),
    };
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn form(headers: &HeaderMap, body: &str) -> Result<Parameters, Denied> {
    form::read(headers, body).map_err(|why| Denied::Refused("invalid_request", why))
}

fn required<'f>(form: &'f Parameters, name: &str, missing: &'static str) -> Result<&'f str, Denied> {
    form.get(name).ok_or(Denied::Refused("invalid_request", missing))
}

async fn by_code(app: &App, form: &Parameters, address: IpAddr) -> Result<Tokens, Denied> {
    let code_hash = secret::hash(required(form, "code", "`code` is missing")?);
    let mut transaction = app.pool.begin().await?;
    let Some(granted) = codes::spend(&mut transaction, &code_hash).await? else {
        if codes::is_spent(&mut transaction, &code_hash).await?
            && sessions::revoke_of_code(&mut transaction, &code_hash, Some(address)).await?
        {
            tracing::warn!("a code was used twice: what came of it has ended");
        }
        transaction.commit().await?;
        return Err(BAD_GRANT);
    };
    let result = exchange(app, &mut transaction, form, (&code_hash, &granted), address).await;
    match &result {
        // Ours: nobody has anything of it, and whoever comes again is as good as the first.
        Err(Denied::Failed(_)) => drop(transaction),
        // Also where it was refused: whoever tries a code has seen it, and doesn't get a second guess.
        Ok(_) | Err(Denied::Refused(..)) => transaction.commit().await?,
    }
    result
}

/// What comes of a code that is spent now. Whatever may be refused is refused before anything is stored.
async fn exchange(
    app: &App,
    connection: &mut PgConnection,
    form: &Parameters,
    (code_hash, granted): (&[u8], &codes::Code),
    address: IpAddr,
) -> Result<Tokens, Denied> {
    let client = required(form, "client_id", "`client_id` is missing")?;
    let redirect_uri = required(form, "redirect_uri", "`redirect_uri` is missing")?;
    let verifier = required(
        form,
        "code_verifier",
        "`code_verifier` is missing: PKCE is required",
    )?;
    let same = granted.client_id == client && granted.redirect_uri == redirect_uri;
    if !same || !pkce::verify(verifier, &granted.code_challenge) {
        return Err(BAD_GRANT);
    }
    let audience = audience(app, form, client, &granted.audience)?;
    let (id, refresh) = (Uuid::now_v7(), Refresh::first());
    let whose = (granted.user_id, id);
    let tokens = tokens(app, connection, whose, client, audience, &refresh).await?;
    let person = users::get(connection, granted.user_id).await?.ok_or(BAD_GRANT)?;
    let session = sessions::NewSession {
        id,
        by: person.by(Some(address)),
        client,
        audience: &granted.audience,
        code_hash,
        family_hash: &refresh.family_hash(),
        refresh_hash: &refresh.hash(),
        expires_at: Time::now().plus(Duration::from_secs(app.session_ttl_secs)),
    };
    sessions::insert(connection, &session, app.limits.sessions_per_user_max).await?;
    Ok(tokens)
}

async fn by_refresh_token(app: &App, form: &Parameters, address: IpAddr) -> Result<Tokens, Denied> {
    let client = required(form, "client_id", "`client_id` is missing")?;
    let text = required(form, "refresh_token", "`refresh_token` is missing")?;
    let old = Refresh::parse(text).ok_or(BAD_GRANT)?;
    let (family, old_hash) = (old.family_hash(), old.hash());
    let mut connection = app.pool.acquire().await?;
    let Some(session) = sessions::find(&mut connection, &family, &old_hash, client).await? else {
        return Err(reused(&mut connection, (&family, &old_hash), client, address).await?);
    };
    let audience = audience(app, form, client, &session.audience)?;
    let next = old.next();
    // Made first: a refusal leaves the sign-in as it is.
    let whose = (session.user_id, session.id);
    let tokens = tokens(app, &mut connection, whose, client, audience, &next).await?;
    if sessions::rotate(&mut connection, &family, &old_hash, &next.hash()).await? {
        return Ok(tokens);
    }
    Err(reused(&mut connection, (&family, &old_hash), client, address).await?)
}

/// For whom tokens are to be, of a sign-in that was begun for `begun_for`.
fn audience<'a>(
    app: &App,
    form: &'a Parameters,
    client: &str,
    begun_for: &'a str,
) -> Result<&'a str, Denied> {
    let wanted = form.get("audience").unwrap_or(begun_for);
    if target::gives(begun_for, wanted, &app.issuer, client == CLI_CLIENT) {
        return Ok(wanted);
    }
    Err(Denied::Refused(
        "invalid_target",
        "this sign-in was begun for another audience: sign in for this one",
    ))
}

async fn reused(
    connection: &mut PgConnection,
    (family, hash): (&[u8], &[u8]),
    client: &str,
    address: IpAddr,
) -> Result<Denied, Denied> {
    if sessions::revoke_reused(connection, family, hash, Some(address)).await? {
        tracing::warn!(client, "a refresh token was used twice: its sign-in has ended");
    }
    Ok(BAD_GRANT)
}

/// Tokens for `audience`, if the person may have some.
async fn tokens(
    app: &App,
    connection: &mut PgConnection,
    (user, session): (UserId, Uuid),
    client: &str,
    audience: &str,
    refresh: &Refresh,
) -> Result<Tokens, Denied> {
    let own = audience == app.issuer;
    let orgs = users::orgs(connection, user, (!own).then_some(audience)).await?;
    if !own && orgs.is_empty() {
        return Err(Denied::Refused(
            "invalid_target",
            "none of your organizations has this cluster",
        ));
    }
    let person = users::get(connection, user).await?.ok_or(BAD_GRANT)?;
    let now = u64::try_from(Time::now().unix_ms() / 1_000).unwrap_or(0);
    let claims = AccessClaims {
        iss: app.issuer.clone(),
        sub: user,
        aud: audience.into(),
        exp: now + app.access_ttl_secs,
        iat: now,
        jti: Uuid::now_v7().to_string(),
        client_id: client.into(),
        sid: session.to_string(),
        email: person.email,
        email_verified: true,
        name: person.name,
        orgs,
    };
    Ok(Tokens {
        access_token: app.keyring.sign(&claims)?,
        token_type: "Bearer".into(),
        expires_in: app.access_ttl_secs,
        refresh_token: refresh.expose(),
    })
}

/// `POST /oauth/revoke` (RFC 7009): signs out. A token that is none is ended already.
pub(super) async fn revoke(
    State(app): State<App>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let form = match form(&headers, &body) {
        Ok(form) => form,
        Err(denied) => return denied.into_response(),
    };
    if let Some(refresh) = form.get("token").and_then(Refresh::parse)
        && let Err(error) = sessions::revoke(&app.pool, &refresh.family_hash(), Some(peer.ip())).await
    {
        return error.into_response();
    }
    StatusCode::OK.into_response()
}
