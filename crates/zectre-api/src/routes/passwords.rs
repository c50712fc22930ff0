//! Changing a password, and setting one with a token from an admin.

use crate::handler::routes;
use crate::{
    attempts::{self, Kind},
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, refuse},
    identity::{Actor, Person, enabled, fingerprint},
    login_token, password,
    policy::Policy,
    scope, sign_in,
    store::{
        account,
        change::{About, Change},
        cli_login, password_reset,
    },
};
use axum::{extract::State, response::Response};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;
use zectre_common::{
    id::UserId,
    time::Time,
    wire::{
        account::{ChangePasswordRequest, PasswordReset, ResetPasswordRequest},
        auth::{LoginResponse, User},
    },
};
use zectre_service::{
    extract::{Json, Path},
    key::{random_bytes, to_hex},
};

/// How long a reset token holds: it is passed on by people, and worth an account.
const RESET_TTL: Duration = Duration::from_secs(3_600);

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Account, routes!(change_password)),
        endpoint(Policy::ClusterAdmin, routes!(make_reset)).creates(),
        endpoint(Policy::Public, routes!(reset)),
    ]
}

/// Changes your password, and ends every login that you have; the answer is a new one.
///
/// API keys stay.
#[utoipa::path(post, path = "/user/password", tag = "auth", request_body = ChangePasswordRequest,
               responses((status = 200, description = "A new login", body = LoginResponse)))]
async fn change_password(
    State(context): State<Context>,
    person: Person,
    actor: Actor,
    Json(request): Json<ChangePasswordRequest>,
) -> Result<Json<LoginResponse>, Error> {
    check(&request.new_password)?;
    let current = SecretString::from(request.current_password);
    let login = sign_in::by_password(&context, &person.email, current, actor.address).await?;
    let hash = password::hash(SecretString::from(request.new_password)).await?;
    let mut change = Change::begin(&context.pool, &actor).await?;
    // Whoever still knew the old one doesn't undo what an admin has set meanwhile.
    let epoch = set(&mut change, login.id, &hash, Some(login.epoch)).await?;
    let epoch = epoch.ok_or_else(|| {
        refuse(
            &code::INVALID_CREDENTIALS,
            "the password was changed, or your logins were ended, meanwhile; log in again",
        )
    })?;
    let what = format!("{} changed their password", person.email);
    change
        .event("user.password_changed", About::default(), &what)
        .await?;
    change.commit().await?;
    let (token, expires_at) =
        login_token::mint(&context.token_key, login.id, epoch, context.settings.token_ttl)?;
    Ok(Json(LoginResponse {
        token,
        expires_at,
        user: person.into(),
    }))
}

/// Makes a token with which the account's owner sets a new password, once, within an hour.
///
/// This answer is the only time that it is shown. It replaces an earlier one. An API key with scopes, or that ends, makes none for an admin
/// of the cluster.
#[utoipa::path(post, path = "/users/{id}/reset-password", tag = "users", params(("id" = UserId, Path, description = "The account")),
               responses((status = 201, description = "The token", body = PasswordReset)))]
async fn make_reset(
    State(context): State<Context>,
    person: Person,
    actor: Actor,
    Path(id): Path<UserId>,
) -> Result<Response, Error> {
    let token = SecretString::from(format!("zr_{}", to_hex(&random_bytes::<32>())));
    let expires_at = Time::now().plus(RESET_TTL);
    let mut change = Change::begin(&context.pool, &actor).await?;
    let account = account::shown(change.connection(), id).await?;
    let account = account.ok_or_else(|| super::users::no_user(id))?;
    if account.is_admin {
        scope::may_make_admins(&person.credential)?;
    }
    let hash = fingerprint(token.expose_secret());
    password_reset::insert(change.connection(), id, &hash, person.id, expires_at).await?;
    let what = format!("a token to reset the password of {} was made", account.email);
    change
        .event("user.password_reset_offered", About::default(), &what)
        .await?;
    let shown = PasswordReset {
        email: account.email,
        token: token.expose_secret().to_owned(),
        expires_at,
    };
    super::created(change, &format!("/users/{id}"), shown).await
}

/// Sets a new password with a token from an admin, and ends every login of the account.
#[utoipa::path(post, path = "/auth/reset-password", tag = "auth", request_body = ResetPasswordRequest,
               responses((status = 200, description = "Whose password was set", body = User)))]
async fn reset(
    State(context): State<Context>,
    actor: Actor,
    Json(request): Json<ResetPasswordRequest>,
) -> Result<Json<User>, Error> {
    check(&request.new_password)?;
    let unknown = || {
        refuse(
            &code::INVALID_RESET_TOKEN,
            "the token was used, replaced or mistyped, or has ended; ask an admin for a new one",
        )
    };
    let counter = [attempts::of_address(Kind::Address, actor.address)];
    let token_hash = fingerprint(&request.token);
    // A hash is work: not for tokens that are none.
    let look = password_reset::whose(&context.pool, &token_hash);
    let whose = context.attempts.guess(counter, look).await?.ok_or_else(unknown)?;
    let hash = password::hash(SecretString::from(request.new_password)).await?;
    let mut taking = context.pool.begin().await?;
    // The account first, as whoever changes its password has it: or the two wait for each other.
    account::hold(&mut taking, whose).await?;
    let id = password_reset::take(&mut taking, &token_hash)
        .await?
        .ok_or_else(unknown)?;
    let account = account::by_id(&mut *taking, id).await?.ok_or_else(unknown)?;
    enabled(account.disabled)?;
    let actor = actor.known_as(id, &account.email);
    let mut change = Change::within(taking, &actor);
    set(&mut change, id, &hash, None).await?;
    let what = format!("{} set a new password with an admin's token", account.email);
    change
        .event("user.password_reset", About::default(), &what)
        .await?;
    change.commit().await?;
    Ok(Json(account.into_user()))
}

/// Stores the hash, and ends what was signed in with the password before; the new epoch of logins, unless it was not `expected`.
async fn set(
    change: &mut Change<'_>,
    id: UserId,
    hash: &str,
    expected: Option<i64>,
) -> Result<Option<i64>, Error> {
    let connection = change.connection();
    // The account first: what someone approves until it is held is forgotten here, and nothing is approved from then on.
    let epoch = account::set_password(connection, id, hash, expected).await?;
    cli_login::forget_of(connection, id).await?;
    password_reset::forget_of(connection, id).await?;
    Ok(epoch)
}

/// Refuses a password that is too short to be one.
pub(super) fn check(password: &str) -> Result<(), Error> {
    let long_enough = password.chars().count() >= password::PASSWORD_CHARS_MIN;
    if long_enough && password.len() <= password::PASSWORD_BYTES_MAX {
        return Ok(());
    }
    let (min, max) = (password::PASSWORD_CHARS_MIN, password::PASSWORD_BYTES_MAX);
    Err(refuse(
        &code::WEAK_PASSWORD,
        format!("a password has at least {min} characters and at most {max} bytes"),
    ))
}
