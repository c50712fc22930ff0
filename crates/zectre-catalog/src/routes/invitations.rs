//! Invitations to an organization, by address; the token is shown once.

use super::App;
use crate::{
    code::INVITATION_NOT_FOUND,
    error::{Error, invalid_field, refuse},
    page::PageQuery,
    policy::{Granted, Person},
    secret,
    store::{invitations, organizations},
};
use axum::extract::State;
use http::StatusCode;
use zectre_common::{
    id::InvitationId,
    plain::is_plain,
    state::Role,
    time::Time,
    wire::{
        catalog::{
            AcceptInvitationRequest, CreateInvitationRequest, CreatedInvitation, Invitation, Organization,
        },
        page::Page,
    },
};
use zectre_service::extract::{Json, Path, Query};

/// The longest address (RFC 5321).
const EMAIL_BYTES_MAX: usize = 254;

pub(super) async fn list(
    State(app): State<App>,
    Granted(organization): Granted<Organization>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Invitation>>, Error> {
    Ok(Json(
        invitations::list(&app.pool, organization.id, query.window()?).await?,
    ))
}

pub(super) async fn create(
    State(app): State<App>,
    Granted(person): Granted<Person>,
    Granted(organization): Granted<Organization>,
    Json(request): Json<CreateInvitationRequest>,
) -> Result<(StatusCode, Json<CreatedInvitation>), Error> {
    let email = request.email.trim();
    let formed = email
        .split_once('@')
        .is_some_and(|(local, host)| !local.is_empty() && !host.is_empty());
    if !formed || email.len() > EMAIL_BYTES_MAX || !is_plain(email) || email.contains(char::is_whitespace) {
        return Err(invalid_field("email", "not an e-mail address"));
    }
    let now = Time::now();
    let invitation = Invitation {
        id: InvitationId::new(),
        organization: organization.slug,
        email: email.into(),
        role: request.role.unwrap_or(Role::Developer),
        created_at: now,
        expires_at: invitations::end(now),
    };
    let token = secret::invitation();
    let (hash, most) = (secret::hash(&token), app.limits.per_organization_max);
    invitations::create(&app.pool, organization.id, &person.by(), &invitation, &hash, most).await?;
    tracing::info!(by = %person.user.id, organization = invitation.organization, role = %invitation.role, "invited someone");
    Ok((StatusCode::CREATED, Json(CreatedInvitation { invitation, token })))
}

pub(super) async fn delete(
    State(app): State<App>,
    Granted(person): Granted<Person>,
    Granted(organization): Granted<Organization>,
    Path((_, id)): Path<(String, InvitationId)>,
) -> Result<StatusCode, Error> {
    if invitations::delete(&app.pool, organization.id, &person.by(), id).await? {
        tracing::info!(by = %person.user.id, organization = organization.slug, invitation = %id, "withdrew an invitation");
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(refuse(
        &INVITATION_NOT_FOUND,
        format!("there is no invitation {id}"),
    ))
}

/// Of all invitations of the world one is found by its token alone, and only by whom it is for.
pub(super) async fn accept(
    State(app): State<App>,
    Granted(person): Granted<Person>,
    Json(request): Json<AcceptInvitationRequest>,
) -> Result<Json<Organization>, Error> {
    let (hash, most) = (
        secret::hash(request.token.trim()),
        app.limits.per_organization_max,
    );
    let joined = invitations::accept(&app.pool, &person.by(), &hash, most).await?;
    tracing::info!(user = %person.user.id, organization = %joined, "accepted an invitation");
    let found = organizations::by_id(&app.pool, joined, person.user.id).await?;
    found
        .map(Json)
        .ok_or_else(|| refuse(&INVITATION_NOT_FOUND, "the organization is gone"))
}
