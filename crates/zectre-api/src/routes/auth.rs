//! Signing up, in and out.

use crate::handler::routes;
use crate::{
    attempts::{self, Kind},
    code,
    context::Context,
    email,
    endpoint::{Endpoint, endpoint},
    error::{Error, refuse},
    idempotency::{self, Claim},
    identity::{self, Actor, Credential, Person},
    login_token, password,
    policy::Policy,
    scope, sign_in,
    store::{
        account,
        change::{About, Change},
    },
};
use axum::{extract::State, response::Response};
use http::{HeaderMap, StatusCode};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use zectre_common::{
    config::Signup,
    id::UserId,
    plain::is_plain,
    time::Time,
    wire::auth::{LoginRequest, LoginResponse, SignupRequest, User},
};
use zectre_service::extract::Json;

const NAME_CHARS_MAX: usize = 100;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Public, routes!(signup)).creates(),
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
/// Where sign-up is closed only an admin of the cluster may, with their credential; they alone may set `is_admin`, though not with
/// an API key that has scopes or ends. Where it takes invitations, so may whoever has one of this address.
#[utoipa::path(post, path = "/auth/signup", tag = "auth", request_body = SignupRequest,
               responses((status = 201, description = "The account", body = User)))]
async fn signup(
    State(context): State<Context>,
    actor: Actor,
    headers: HeaderMap,
    Json(request): Json<SignupRequest>,
) -> Result<Response, Error> {
    let admin = calling_admin(&context, &headers).await?;
    let email = wished(&context, &request, admin.as_ref())?;
    if let Some(answer) = made_before(&context, &headers, &request, actor.address).await? {
        return Ok(answer);
    }
    // From here on it counts, whatever comes of it: a hash is work, and who is refused learns who has an account.
    let counter = [attempts::of_address(Kind::SignUp, actor.address)];
    let _counted = match admin {
        None => Some(context.attempts.claim(counter).await?),
        Some(_) => None,
    };
    if let Some(token) = &request.invitation {
        super::members::check_invitation(&context, token, email, actor.address).await?;
    }
    let name = shown_name(request.name.as_deref(), email)?;
    let hash = password::hash(SecretString::from(request.password.clone())).await?;
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
    let claim = idempotency::key_of(&headers)?.map(|key| Claim::new(&context, id, &key));
    let actor = Actor { claim, ..actor };
    let mut change = Change::begin(&context.pool, &actor).await?;
    if !account::insert(change.connection(), id, email, name, &hash, is_admin).await? {
        drop(change);
        // Of two that came at once the second one has the first one's answer.
        if let Some(answer) = made_before(&context, &headers, &request, actor.address).await? {
            return Ok(answer);
        }
        return Err(refuse(
            &code::EMAIL_EXISTS,
            "an account with this e-mail address exists; log in instead",
        ));
    }
    if let Some(claim) = &actor.claim {
        claim.hold(change.connection(), &said(&request)).await?;
    }
    change.event(event, About::default(), &message).await?;
    if let Some(token) = &request.invitation {
        super::members::take_up(&mut change, token, id, email).await?;
    }
    let account = account::by_id(change.connection(), id).await?;
    let account = account.ok_or_else(|| Error::Internal("an account was gone at once".into()))?;
    let user = account.into_user();
    // To who signs up the account is `/user`; that of an admin who makes one is the admin's own.
    let path = admin
        .as_ref()
        .map_or_else(|| "/user".to_owned(), |_| format!("/users/{id}"));
    super::created(change, &path, user).await
}

/// The address that the sign-up is for, if it may be made at all.
fn wished<'r>(
    context: &Context,
    request: &'r SignupRequest,
    admin: Option<&Person>,
) -> Result<&'r str, Error> {
    match admin {
        Some(admin) if request.is_admin == Some(true) => scope::may_make_admins(&admin.credential)?,
        Some(_) => {}
        None => {
            may_sign_up(context.settings.signup, request.invitation.is_some())?;
            if request.is_admin.is_some() {
                return Err(refuse(
                    &code::FORBIDDEN,
                    "only an admin of the cluster says who else is one; leave `is_admin` out",
                ));
            }
        }
    }
    let email = request.email.trim();
    if !email::is_plausible(email) {
        return Err(refuse(
            &code::INVALID_EMAIL,
            "the e-mail address is not one: write it as name@example.com",
        ));
    }
    super::passwords::check(&request.password)?;
    Ok(email)
}

/// The answer to the same sign-up with the same `Idempotency-Key`, which made the account before.
///
/// Whoever asks is nobody yet, so what was kept is found by the address, and given to who has the password: to a guess it is a login.
async fn made_before(
    context: &Context,
    headers: &HeaderMap,
    request: &SignupRequest,
    client: Option<IpAddr>,
) -> Result<Option<Response>, Error> {
    let Some(key) = idempotency::key_of(headers)? else {
        return Ok(None);
    };
    let email = request.email.trim();
    let Some(known) = account::login(&context.pool, email).await? else {
        return Ok(None);
    };
    let Some(kept) = idempotency::kept(context, known.id, &key, &said(request)).await? else {
        return Ok(None);
    };
    let password = SecretString::from(request.password.clone());
    match sign_in::by_password(context, email, password, client).await {
        Ok(_) => Ok(Some(kept)),
        Err(Error::Refused { code, .. }) if code.name == code::INVALID_CREDENTIALS.name => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a sign-up says, but for its password, which no fast hash may stand for.
fn said(request: &SignupRequest) -> [u8; 32] {
    let said = serde_json::json!([
        request.email.trim(),
        request.name,
        request.is_admin,
        request.invitation
    ]);
    Sha256::digest(said.to_string().as_bytes()).into()
}

/// The name that others see: the one given, else the part of the address before `@`.
fn shown_name<'n>(given: Option<&'n str>, email: &'n str) -> Result<&'n str, Error> {
    let given = given.map(str::trim).filter(|name| !name.is_empty());
    let name = given.unwrap_or_else(|| email.split('@').next().unwrap_or(email));
    if name.chars().count() > NAME_CHARS_MAX || !is_plain(name) {
        return Err(crate::error::invalid_field(
            "name",
            format!("one line of at most {NAME_CHARS_MAX} visible characters"),
        ));
    }
    Ok(name)
}

/// Whether someone whom no admin made an account for may make one.
fn may_sign_up(mode: Signup, is_invited: bool) -> Result<(), Error> {
    match mode {
        Signup::Open => Ok(()),
        Signup::Invite if is_invited => Ok(()),
        Signup::Invite => Err(refuse(
            &code::INVITATION_REQUIRED,
            "this cluster takes sign-ups with an invitation only; send its token as `invitation`",
        )),
        Signup::Closed => Err(refuse(
            &code::SIGNUP_CLOSED,
            "this cluster takes no sign-ups; its admin can make accounts, or allow them with `signup` in [auth]",
        )),
    }
}

/// The admin of the cluster whose credential the request carries. One that carries a wrong credential is told so,
/// rather than taken for nobody's.
async fn calling_admin(context: &Context, headers: &HeaderMap) -> Result<Option<Person>, Error> {
    if !identity::has_credential(headers) {
        return Ok(None);
    }
    let person = identity::authenticate(context, headers, Time::now()).await?;
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
    let password = SecretString::from(request.password);
    let found = sign_in::by_password(&context, request.email.trim(), password, actor.address).await?;
    let (token, expires_at) = login_token::mint(
        &context.token_key,
        found.id,
        found.epoch,
        context.settings.token_ttl,
    )?;
    let account = account::by_id(&context.pool, found.id).await?;
    let account = account.ok_or_else(|| Error::Internal("an account was gone at once".into()))?;
    let user = account.into_user();
    let actor = actor.known_as(found.id, &user.email);
    let mut change = Change::begin(&context.pool, &actor).await?;
    let what = format!("{} logged in", user.email);
    change.event("user.logged_in", About::default(), &what).await?;
    change.commit().await?;
    Ok(Json(LoginResponse {
        token,
        expires_at,
        user,
    }))
}

/// Ends the login whose token the request carries; an API key stays as it is.
#[utoipa::path(post, path = "/auth/logout", tag = "auth", responses((status = 204, description = "Logged out")))]
async fn logout(State(context): State<Context>, person: Person, actor: Actor) -> Result<StatusCode, Error> {
    if let Credential::Login { token_id, expires_at } = person.credential {
        let mut change = Change::begin(&context.pool, &actor).await?;
        account::revoke(change.connection(), token_id, expires_at).await?;
        let what = format!("{} logged out", person.email);
        change.event("user.logged_out", About::default(), &what).await?;
        change.commit().await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Who am I?
#[utoipa::path(get, path = "/user", tag = "auth", responses((status = 200, description = "You", body = User)))]
async fn user(person: Person) -> Json<User> {
    Json(person.into())
}
