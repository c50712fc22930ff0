//! Signing a command line in.

use crate::handler::routes;
use crate::{
    cli_login::{self, Decision},
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, invalid_field},
    identity::{Actor, Person},
    let_in::LetIn,
    policy::Policy,
};
use axum::extract::State;
use zectre_common::{
    plain::is_plain,
    wire::cli_login::{
        ApproveCliLoginRequest, CliLogin, CliToken, CliTokenRequest, InitiateCliLoginRequest,
        InitiatedCliLogin,
    },
};
use zectre_service::extract::Json;

const DEVICE_NAME_CHARS_MAX: usize = 60;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Public, routes!(initiate)),
        endpoint(Policy::Account, routes!(approve)),
        endpoint(Policy::Public, routes!(token)),
    ]
}

/// Begins the login of a command line: whoever approves its user code lets it act for them.
#[utoipa::path(post, path = "/auth/cli/initiate", tag = "auth", request_body = InitiateCliLoginRequest,
               responses((status = 200, description = "The codes", body = InitiatedCliLogin)))]
async fn initiate(
    State(context): State<Context>,
    actor: Actor,
    Json(request): Json<InitiateCliLoginRequest>,
) -> Result<Json<InitiatedCliLogin>, Error> {
    let name = request.device_name.as_deref().map(str::trim);
    let name = name.filter(|name| !name.is_empty()).unwrap_or("a command line");
    if name.chars().count() > DEVICE_NAME_CHARS_MAX || !is_plain(name) {
        return Err(invalid_field(
            "device_name",
            format!("one line of at most {DEVICE_NAME_CHARS_MAX} visible characters"),
        ));
    }
    Ok(Json(cli_login::begin(&context, &actor, name).await?))
}

/// Lets the command line that shows this code act as you, or denies it.
///
/// Only ever approve a code that you have seen on a command line of your own.
#[utoipa::path(post, path = "/auth/cli/approve", tag = "auth", request_body = ApproveCliLoginRequest,
               responses((status = 200, description = "What was approved or denied", body = CliLogin)))]
async fn approve(
    State(context): State<Context>,
    person: Person,
    actor: Actor,
    Json(request): Json<ApproveCliLoginRequest>,
) -> Result<Json<CliLogin>, Error> {
    let decision = if request.approve.unwrap_or(true) {
        let until = person.credential.keys_until();
        Decision::Approve { until }
    } else {
        Decision::Deny
    };
    let who = (LetIn::of(&person), person.email.as_str());
    let decided = cli_login::decide(&context, &actor, who, &request.user_code, decision).await?;
    Ok(Json(decided))
}

/// Fetches the key of an approved command line, once.
///
/// Until then `AUTHORIZATION_PENDING`; `SLOW_DOWN` for who asks too often, `ACCESS_DENIED` and `DEVICE_CODE_EXPIRED` when
/// there is nothing more to wait for.
#[utoipa::path(post, path = "/auth/cli/token", tag = "auth", request_body = CliTokenRequest,
               responses((status = 200, description = "The key", body = CliToken)))]
async fn token(
    State(context): State<Context>,
    actor: Actor,
    Json(request): Json<CliTokenRequest>,
) -> Result<Json<CliToken>, Error> {
    Ok(Json(
        cli_login::fetch(&context, &actor, &request.device_code).await?,
    ))
}
