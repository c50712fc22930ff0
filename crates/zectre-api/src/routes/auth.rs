//! Signing up, in and out.

use super::is_plain;
use crate::{
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, refuse},
    identity::{self, Actor, Credential, Person},
    login_token, password,
    policy::Policy,
    store::{
        account,
        change::{About, Change},
    },
};
use axum::{extract::State, response::Response};
use http::{HeaderMap, StatusCode};
use secrecy::SecretString;
use utoipa_axum::routes;
use zectre_common::{
    config::Signup,
    id::UserId,
    wire::auth::{LoginRequest, LoginResponse, SignupRequest, User},
};
use zectre_service::extract::Json;

/// No address is longer (RFC 5321, section 4.5.3.1.3).
const EMAIL_BYTES_MAX: usize = 254;
const NAME_CHARS_MAX: usize = 100;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Public, routes!(signup)),
        endpoint(Policy::Public, routes!(login)),
        endpoint(Policy::User, routes!(logout)),
        endpoint(Policy::User, routes!(user)),
    ]
}

impl From<Person> for User {
    fn from(person: Person) -> Self {
        Self {
            id: person.id,
            email: person.email,
            name: person.name,
            is_admin: person.is_admin,
            memberships: person.memberships,
            created_at: person.created_at,
        }
    }
}

/// Makes an account.
///
/// Where sign-up is closed only an admin of the cluster may, with their credential; they alone may set `is_admin`.
#[utoipa::path(post, path = "/auth/signup", tag = "auth", request_body = SignupRequest,
               responses((status = 201, description = "The account", body = User)))]
async fn signup(
    State(context): State<Context>,
    actor: Actor,
    headers: HeaderMap,
    Json(request): Json<SignupRequest>,
) -> Result<Response, Error> {
    let admin = calling_admin(&context, &headers).await?;
    if context.settings.signup == Signup::Closed && admin.is_none() {
        return Err(refuse(
            &code::SIGNUP_CLOSED,
            "this cluster takes no sign-ups; its admin can make accounts, or allow them with `signup = \"open\"` in [auth]",
        ));
    }
    if request.is_admin.is_some() && admin.is_none() {
        return Err(refuse(
            &code::FORBIDDEN,
            "only an admin of the cluster says who else is one; leave `is_admin` out",
        ));
    }
    let email = request.email.trim();
    if !plausible_email(email) {
        return Err(refuse(
            &code::INVALID_EMAIL,
            "the e-mail address is not one: write it as name@example.com",
        ));
    }
    check_password(&request.password)?;
    let name = request
        .name
        .as_deref()
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| email.split('@').next().unwrap_or(email));
    if name.chars().count() > NAME_CHARS_MAX || !is_plain(name) {
        return Err(crate::error::invalid_field(
            "name",
            format!("one line of at most {NAME_CHARS_MAX} visible characters"),
        ));
    }
    let hash = password::hash(SecretString::from(request.password)).await?;
    let id = UserId::new();
    let (actor, event, message) = match &admin {
        Some(admin) => (
            actor.known_as(admin.id, &admin.email),
            "user.created",
            format!("an account for {email} was made"),
        ),
        None => (
            actor.known_as(id, email),
            "user.signed_up",
            format!("{email} signed up"),
        ),
    };
    let is_admin = request.is_admin.unwrap_or(false);
    let mut change = Change::begin(&context.pool, &actor).await?;
    if !account::insert(change.connection(), id, email, name, &hash, is_admin).await? {
        return Err(refuse(
            &code::EMAIL_EXISTS,
            "an account with this e-mail address exists; log in instead",
        ));
    }
    change.event(event, About::default(), &message).await?;
    let account = account::by_id(change.connection(), id).await?;
    let account = account.ok_or_else(|| Error::Internal("an account was gone at once".into()))?;
    let user = User::from(account.into_person(Credential::ApiKey));
    super::created(change, "/user", user).await
}

/// The admin of the cluster whose credential the request carries. One that carries a wrong credential is told so,
/// rather than taken for nobody's.
async fn calling_admin(context: &Context, headers: &HeaderMap) -> Result<Option<Person>, Error> {
    if !identity::has_credential(headers) {
        return Ok(None);
    }
    let person = identity::authenticate(context, headers).await?;
    Ok(person.is_admin.then_some(person))
}

/// Gives a login token for an e-mail address and a password.
#[utoipa::path(post, path = "/auth/login", tag = "auth", request_body = LoginRequest,
               responses((status = 200, description = "The token", body = LoginResponse)))]
async fn login(
    State(context): State<Context>,
    actor: Actor,
    Json(request): Json<LoginRequest>,
) -> Result<Json<LoginResponse>, Error> {
    let (email, client) = (request.email.trim(), actor.address);
    let wrong = || {
        refuse(
            &code::INVALID_CREDENTIALS,
            "no account has this e-mail address and password",
        )
    };
    if email.len() > EMAIL_BYTES_MAX
        || email.contains('\0')
        || request.password.len() > password::PASSWORD_BYTES_MAX
    {
        return Err(wrong());
    }
    if let Some(secs) = context.login_limit.wait_secs(email, client) {
        return Err(Error::Refused {
            code: &code::TOO_MANY_ATTEMPTS,
            detail: format!("too many failed logins; try again in {secs} s"),
            errors: Vec::new(),
            retry_after_secs: Some(secs),
        });
    }
    let found = account::login(&context.pool, email).await?;
    let stored = found.as_ref().and_then(|login| login.password_hash.clone());
    if !password::verify(SecretString::from(request.password), stored).await? {
        context.login_limit.failed(email, client);
        return Err(wrong());
    }
    let found = found.ok_or_else(wrong)?;
    context.login_limit.succeeded(email, client);
    if found.disabled {
        return Err(refuse(
            &code::ACCOUNT_DISABLED,
            "an admin has disabled this account",
        ));
    }
    let (token, expires_at) = login_token::mint(&context.token_key, found.id, context.settings.token_ttl)?;
    let account = account::by_id(&context.pool, found.id).await?.ok_or_else(wrong)?;
    let user = User::from(account.into_person(Credential::ApiKey));
    Ok(Json(LoginResponse {
        token,
        expires_at,
        user,
    }))
}

/// Ends the login whose token the request carries; an API key stays as it is.
#[utoipa::path(post, path = "/auth/logout", tag = "auth", responses((status = 204, description = "Logged out")))]
async fn logout(State(context): State<Context>, person: Person) -> Result<StatusCode, Error> {
    if let Credential::Login { token_id, expires_at } = person.credential {
        account::revoke(&context.pool, token_id, expires_at).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Who am I?
#[utoipa::path(get, path = "/user", tag = "auth", responses((status = 200, description = "You", body = User)))]
async fn user(person: Person) -> Json<User> {
    Json(person.into())
}

fn plausible_email(email: &str) -> bool {
    email.len() <= EMAIL_BYTES_MAX
        && is_plain(email)
        && !email.contains(char::is_whitespace)
        && email.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && !domain.contains('@')
                && domain.split('.').count() > 1
                && !domain.split('.').any(str::is_empty)
        })
}

fn check_password(password: &str) -> Result<(), Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_can_not_be_are_refused() {
        for good in ["a@b.c", "admin@zectre.localhost", "x+y@mail.example.org"] {
            assert!(plausible_email(good), "{good}");
        }
        for bad in [
            "",
            "a",
            "a@b",
            "@b.c",
            "a@.c",
            "a@b..c",
            "a b@c.d",
            "a@b@c.d",
            "a@b.c\n",
            "\u{202e}a@b.c",
        ] {
            assert!(!plausible_email(bad), "{bad}");
        }
    }
}
