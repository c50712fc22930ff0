//! `GET /oauth/authorize` sends a browser to GitHub; `GET /oauth/github/callback` takes it from there back to the client,
//! with a code; `POST /oauth/consent` does so where its person was asked first.
//!
//! Until it is known that a client may have answers sent to a redirect, nothing is sent there.

use super::{
    App, browser, cookie,
    form::{self, Parameters},
    login::{Consent, Login, TTL},
};
use crate::{
    code,
    core::{pkce, target},
    error::{Error, refuse},
    github::Visit,
    metrics::Outcome,
    sealed::Waiting,
    secret,
    store::{codes, consents, users},
};
use axum::{
    Extension,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use url::Url;
use zectre_common::{id::UserId, time::Time};
use zectre_service::{problem::Failure, server::Peer};

/// The longest `state` of a client; it waits in a cookie.
const STATE_BYTES_MAX: usize = 512;
/// The longest redirect; the same.
const REDIRECT_BYTES_MAX: usize = 512;

/// What a client is told by way of its redirect (RFC 6749, section 4.1.2.1).
struct Denial {
    error: &'static str,
    description: String,
}

impl Denial {
    fn by_person() -> Self {
        Self {
            error: "access_denied",
            description: "the sign-in was refused".into(),
        }
    }
}

/// `GET /oauth/authorize`
pub(super) async fn begin(State(app): State<App>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    match try_begin(&app, query.as_deref().unwrap_or_default()) {
        Ok(response) => response,
        Err(error) => browser::answer(error.into(), &headers),
    }
}

fn try_begin(app: &App, query: &str) -> Result<Response, Error> {
    let parameters = Parameters::parse(query)
        .map_err(|why| refuse(&code::INVALID_REQUEST, format!("this login can't begin: {why}")))?;
    let (Some(client), Some(redirect_uri)) = (parameters.get("client_id"), parameters.get("redirect_uri"))
    else {
        let detail = "a login begins with `client_id` and `redirect_uri`";
        return Err(refuse(&code::INVALID_REQUEST, detail));
    };
    if redirect_uri.len() > REDIRECT_BYTES_MAX || !app.may_redirect(client, redirect_uri) {
        return Err(refuse(
            &code::UNKNOWN_CLIENT,
            "no such client may sign people in here with this redirect: add both to `clients` in the catalog's configuration",
        ));
    }
    match login(app, &parameters, client, redirect_uri) {
        Ok(login) => {
            app.logins.count(Outcome::Begun);
            let url = app.github.authorize_url(&login.state, &login.verifier);
            let remember = cookie::remember(&app.master, &app.issuer, Waiting::Login, &login, TTL)?;
            redirect(&url, &remember)
        }
        Err(denial) => {
            let state = parameters
                .get("state")
                .filter(|state| state.len() <= STATE_BYTES_MAX);
            let back = back(app, redirect_uri, state, Err(&denial))?;
            redirect(&back, &cookie::forget(&app.issuer, Waiting::Login)?)
        }
    }
}

fn login(app: &App, parameters: &Parameters, client: &str, redirect_uri: &str) -> Result<Login, Denial> {
    let invalid = |description: &str| Denial {
        error: "invalid_request",
        description: description.into(),
    };
    if parameters.get("response_type") != Some("code") {
        return Err(Denial {
            error: "unsupported_response_type",
            description: "`response_type` must be `code`".into(),
        });
    }
    if parameters.get("code_challenge_method") != Some("S256") {
        return Err(invalid(
            "PKCE is required: `code_challenge_method` must be `S256`",
        ));
    }
    let challenge = parameters
        .get("code_challenge")
        .filter(|text| pkce::is_challenge(text));
    let challenge = challenge.ok_or_else(|| invalid("`code_challenge` must be a SHA-256 in base64url"))?;
    let client_state = parameters.get("state");
    if client_state.is_some_and(|state| state.len() > STATE_BYTES_MAX) {
        return Err(invalid("`state` is too long"));
    }
    let audience = parameters.get("audience").unwrap_or(&app.issuer);
    if audience != app.issuer && !target::is_audience(audience) {
        return Err(invalid("`audience` is not one"));
    }
    Ok(Login {
        state: secret::random(),
        verifier: secret::random(),
        client_id: client.into(),
        redirect_uri: redirect_uri.into(),
        client_state: client_state.map(str::to_owned),
        code_challenge: challenge.into(),
        audience: audience.into(),
        expires_at: Time::now().plus(TTL),
    })
}

/// `GET /oauth/github/callback`
pub(super) async fn finish(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.as_deref().unwrap_or_default();
    let result = try_finish(&app, query, &headers, peer).await;
    ended(&app, result, Waiting::Login, &headers)
}

/// `POST /oauth/consent`
pub(super) async fn consent(State(app): State<App>, headers: HeaderMap, body: String) -> Response {
    let result = try_consent(&app, &headers, &body).await;
    ended(&app, result, Waiting::Consent, &headers)
}

/// The answer, after which the browser has nothing to remember of what it waited for.
fn ended(app: &App, result: Result<Response, Error>, waited: Waiting, headers: &HeaderMap) -> Response {
    let mut response = result.unwrap_or_else(|error| {
        app.logins.count(Outcome::Failed);
        browser::answer(Failure::from(error), headers)
    });
    if let Ok(forget) = cookie::forget(&app.issuer, waited) {
        response.headers_mut().append(header::SET_COOKIE, forget);
    }
    response
}

fn expired() -> Error {
    refuse(
        &code::LOGIN_EXPIRED,
        "this sign-in was not begun in this browser, or more than ten minutes ago: begin it anew",
    )
}

async fn try_finish(app: &App, query: &str, headers: &HeaderMap, peer: Peer) -> Result<Response, Error> {
    let parameters = Parameters::parse(query).map_err(|_| expired())?;
    let state = parameters.get("state").ok_or_else(expired)?;
    let login: Option<Login> = cookie::recall(headers, &app.master, &app.issuer, Waiting::Login);
    let login = login.filter(|login| login.answers(state)).ok_or_else(expired)?;
    let Some(github_code) = parameters.get("code") else {
        return answer(app, &login, &Err(Denial::by_person()));
    };
    let profile = match app.github.visit(github_code, &login.verifier).await? {
        Visit::Known(profile) => profile,
        Visit::BadCode => return Err(expired()),
        Visit::NoEmail => {
            let detail = "GitHub knows no primary e-mail address of yours that it has verified: verify one in GitHub's settings";
            return Err(refuse(&code::NO_VERIFIED_EMAIL, detail));
        }
    };
    let user = users::sign_in(
        &app.pool,
        app.github.issuer(),
        &profile,
        Some(peer.0.ip()),
        app.limits.per_organization_max,
    )
    .await?;
    if login.asks() {
        return ask(app, user, &profile.email, login);
    }
    let granted = grant(app, user, &login).await?;
    answer(app, &login, &granted)
}

fn ask(app: &App, user: UserId, email: &str, login: Login) -> Result<Response, Error> {
    let nonce = secret::random();
    let address =
        Url::parse(&login.redirect_uri).map_or_else(|_| String::new(), |url| url.authority().to_owned());
    let mut response = browser::ask(email, &login.client_id, &address, &nonce);
    let consent = Consent {
        user,
        nonce,
        login,
        expires_at: Time::now().plus(TTL),
    };
    let remember = cookie::remember(&app.master, &app.issuer, Waiting::Consent, &consent, TTL)?;
    response.headers_mut().append(header::SET_COOKIE, remember);
    Ok(response)
}

async fn try_consent(app: &App, headers: &HeaderMap, body: &str) -> Result<Response, Error> {
    let form = form::read(headers, body).map_err(|_| expired())?;
    let nonce = form.get("nonce").ok_or_else(expired)?;
    let consent: Option<Consent> = cookie::recall(headers, &app.master, &app.issuer, Waiting::Consent);
    let consent = consent
        .filter(|consent| consent.answers(nonce))
        .ok_or_else(expired)?;
    // The page is answered once: its cookie and nonce may lie in a log or a history.
    if !consents::spend(&app.pool, &secret::hash(nonce), consent.expires_at).await? {
        return Err(expired());
    }
    let granted = if form.get("decision") == Some("allow") {
        grant(app, consent.user, &consent.login).await?
    } else {
        Err(Denial::by_person())
    };
    answer(app, &consent.login, &granted)
}

/// Back to the client.
fn answer(app: &App, login: &Login, granted: &Result<String, Denial>) -> Result<Response, Error> {
    app.logins.count(if granted.is_ok() {
        Outcome::Granted
    } else {
        Outcome::Denied
    });
    let granted = granted.as_ref().map(String::as_str);
    away(&back(
        app,
        &login.redirect_uri,
        login.client_state.as_deref(),
        granted,
    )?)
}

/// A code for what was asked, if this person may have it.
async fn grant(app: &App, user: UserId, login: &Login) -> Result<Result<String, Denial>, Error> {
    let stranger = login.audience != app.issuer && {
        let mut connection = app.pool.acquire().await?;
        users::orgs(&mut connection, user, Some(&login.audience))
            .await?
            .is_empty()
    };
    if stranger {
        tracing::info!(%user, audience = login.audience, "refused a login for a cluster of strangers");
        return Ok(Err(Denial {
            error: "access_denied",
            description: "none of your organizations has this cluster".into(),
        }));
    }
    let fresh = secret::code();
    let code = codes::Code {
        user_id: user,
        client_id: login.client_id.clone(),
        redirect_uri: login.redirect_uri.clone(),
        code_challenge: login.code_challenge.clone(),
        audience: login.audience.clone(),
    };
    codes::insert(&app.pool, &secret::hash(&fresh), &code).await?;
    Ok(Ok(fresh))
}

/// The client's address with the answer; `iss` says whose it is (RFC 9207).
fn back(
    app: &App,
    redirect_uri: &str,
    state: Option<&str>,
    result: Result<&str, &Denial>,
) -> Result<String, Error> {
    let mut url = Url::parse(redirect_uri)
        .map_err(|error| Error::Internal(format!("a registered redirect is no URL: {error}")))?;
    {
        let mut query = url.query_pairs_mut();
        match result {
            Ok(code) => query.append_pair("code", code),
            Err(denial) => query
                .append_pair("error", denial.error)
                .append_pair("error_description", &denial.description),
        };
        if let Some(state) = state {
            query.append_pair("state", state);
        }
        query.append_pair("iss", &app.issuer);
    }
    Ok(url.into())
}

fn redirect(url: &str, cookie: &HeaderValue) -> Result<Response, Error> {
    let mut response = away(url)?;
    response.headers_mut().append(header::SET_COOKIE, cookie.clone());
    Ok(response)
}

fn away(url: &str) -> Result<Response, Error> {
    let location = HeaderValue::from_str(url)
        .map_err(|error| Error::Internal(format!("a redirect can't be sent: {error}")))?;
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location);
    // A code in a URL goes to nobody else.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
