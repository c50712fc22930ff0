//! Members of organizations, and invitations to become one.
//!
//! Only an admin of the cluster can name any account: others invite an address, and whoever has it decides. So nobody
//! learns who else has an account here, and nobody is put into an organization that they don't know.

use crate::handler::routes;
use crate::{
    attempts::{self, Kind},
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, refuse},
    identity::{Actor, Person, fingerprint},
    page::list_query,
    policy::{Policy, Thing},
    store::{
        account,
        change::{About, Change},
        invitation, member, organization,
    },
};
use axum::{extract::State, response::Response};
use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use std::{net::IpAddr, time::Duration};
use zectre_common::{
    id::{InvitationId, OrganizationId, UserId},
    state::Role,
    time::Time,
    wire::{
        auth::Membership,
        member::{
            AcceptInvitationRequest, CreateInvitationRequest, CreatedInvitation, Invitation, Member,
            SetMemberRequest,
        },
        page::Page,
    },
};
use zectre_service::{
    extract::{Json, Path, Query},
    key::{random_bytes, to_hex},
};

/// An invitation is passed on by people: long enough for a holiday's first week, short enough to be forgotten safely.
const INVITATION_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

list_query! {
    /// Of members.
    MembersQuery sorted by MemberSort { Email = "email", Name = "name", Role = "role", CreatedAt = "created_at" } smallest first, filtered by {}
}

list_query! {
    /// Of invitations.
    InvitationsQuery sorted by InvitationSort { CreatedAt = "created_at", Email = "email" } largest first, filtered by {}
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    let of = |role| Policy::Owned(role, Thing::Organization);
    vec![
        endpoint(of(Role::Viewer), routes!(list)),
        endpoint(of(Role::Admin), routes!(set)),
        endpoint(of(Role::Admin), routes!(remove)),
        endpoint(Policy::Account, routes!(leave)),
        endpoint(of(Role::Admin), routes!(list_invitations)),
        endpoint(of(Role::Admin), routes!(invite)).creates(),
        endpoint(of(Role::Admin), routes!(withdraw)),
        endpoint(Policy::Account, routes!(accept)),
    ]
}

/// What a change of members would break.
#[derive(Debug, PartialEq, Eq)]
enum Broken {
    /// Owners are the business of owners.
    NotAnOwner,
    /// Nobody would own the organization.
    LastOwner,
}

/// Whether `by` may change someone's role from `from` to `to`; `None` is no member.
fn may_change(by: Role, from: Option<Role>, to: Option<Role>, has_other_owner: bool) -> Result<(), Broken> {
    let owner = Some(Role::Owner);
    if (from == owner || to == owner) && by != Role::Owner {
        return Err(Broken::NotAnOwner);
    }
    if from == owner && to != owner && !has_other_owner {
        return Err(Broken::LastOwner);
    }
    Ok(())
}

/// Who is a member of the organization, and with which role.
#[utoipa::path(get, path = "/orgs/{slug}/members", tag = "organizations", params(("slug" = String, Path, description = "The organization"), MembersQuery),
               responses((status = 200, description = "A page", body = Page<Member>)))]
async fn list(
    State(context): State<Context>,
    Path(slug): Path<String>,
    Query(query): Query<MembersQuery>,
) -> Result<Json<Page<Member>>, Error> {
    let window = query.window()?;
    let organization = named(&context, &slug).await?;
    let (rows, total) = member::list(&context.lists, organization, &window).await?;
    Ok(Json(window.page(rows, total)))
}

/// Gives a member another role.
///
/// Only owners make owners, and change them. An admin of the cluster can make anyone a member; others invite.
#[utoipa::path(put, path = "/orgs/{slug}/members/{user_id}", tag = "organizations",
               params(("slug" = String, Path, description = "The organization"), ("user_id" = UserId, Path, description = "The member")),
               request_body = SetMemberRequest, responses((status = 200, description = "The member", body = Member)))]
async fn set(
    State(context): State<Context>,
    person: Person,
    actor: Actor,
    Path((slug, user)): Path<(String, UserId)>,
    Json(request): Json<SetMemberRequest>,
) -> Result<Json<Member>, Error> {
    let organization = named(&context, &slug).await?;
    let mut change = Change::begin(&context.pool, &actor).await?;
    let from = allowed(&mut change, &person, organization, user, Some(request.role)).await?;
    let email = match &from {
        Some(member) => member.email.clone(),
        None if person.is_admin => {
            let account = account::by_id(change.connection(), user).await?;
            account.ok_or_else(|| no_member(&slug, user))?.email
        }
        None => return Err(no_member(&slug, user)),
    };
    member::set(change.connection(), organization, user, request.role).await?;
    if from.as_ref().map(|member| member.role) != Some(request.role) {
        let (action, what) = match &from {
            Some(member) => (
                "member.changed",
                format!(
                    "{email} was `{}` of `{slug}` and is `{}`",
                    member.role, request.role
                ),
            ),
            None => (
                "member.added",
                format!("{email} is `{}` of `{slug}`", request.role),
            ),
        };
        change
            .event(action, About::organization(organization), &what)
            .await?;
    }
    let member = member::get(change.connection(), organization, user).await?;
    let member = member.ok_or_else(|| no_member(&slug, user))?;
    change.commit().await?;
    Ok(Json(member))
}

/// Ends someone's membership.
#[utoipa::path(delete, path = "/orgs/{slug}/members/{user_id}", tag = "organizations",
               params(("slug" = String, Path, description = "The organization"), ("user_id" = UserId, Path, description = "The member")),
               responses((status = 204, description = "No member any more")))]
async fn remove(
    State(context): State<Context>,
    person: Person,
    actor: Actor,
    Path((slug, user)): Path<(String, UserId)>,
) -> Result<StatusCode, Error> {
    end(&context, &person, &actor, &slug, user).await
}

/// Ends your own membership.
#[utoipa::path(delete, path = "/orgs/{slug}/membership", tag = "organizations",
               params(("slug" = String, Path, description = "The organization")),
               responses((status = 204, description = "No member any more")))]
async fn leave(
    State(context): State<Context>,
    person: Person,
    actor: Actor,
    Path(slug): Path<String>,
) -> Result<StatusCode, Error> {
    if !person.memberships.iter().any(|one| one.organization == slug) {
        return Err(super::gone(Thing::Organization, &slug));
    }
    end(&context, &person, &actor, &slug, person.id).await
}

async fn end(
    context: &Context,
    person: &Person,
    actor: &Actor,
    slug: &str,
    user: UserId,
) -> Result<StatusCode, Error> {
    let organization = named(context, slug).await?;
    let mut change = Change::begin(&context.pool, actor).await?;
    let member = allowed(&mut change, person, organization, user, None).await?;
    let member = member.ok_or_else(|| no_member(slug, user))?;
    member::remove(change.connection(), organization, user).await?;
    let what = format!("{} is no member of `{slug}` any more", member.email);
    change
        .event("member.removed", About::organization(organization), &what)
        .await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The member as it is, when `person` may change its role to `to`. The organization is held from here on, and the
/// caller's role is read anew: it may have changed since the guard let them in.
async fn allowed(
    change: &mut Change<'_>,
    person: &Person,
    organization: OrganizationId,
    user: UserId,
    to: Option<Role>,
) -> Result<Option<Member>, Error> {
    let connection = change.connection();
    member::hold(connection, organization).await?;
    let by = if person.is_admin {
        Some(Role::Owner)
    } else {
        let caller = member::get(connection, organization, person.id).await?;
        caller.map(|caller| caller.role)
    };
    // A key with scopes has at most theirs.
    let by = by.and_then(|role| person.credential.lower(role));
    let by = by.filter(|role| user == person.id && to.is_none() || *role >= Role::Admin);
    let by = by.ok_or_else(|| refuse(&code::FORBIDDEN, "your role has changed; look again"))?;
    let from = member::get(connection, organization, user).await?;
    let has_other_owner = member::has_other_owner(connection, organization, user).await?;
    // Leaving is everybody's own business.
    let by = if user == person.id && to.is_none() {
        Role::Owner
    } else {
        by
    };
    let role = from.as_ref().map(|member| member.role);
    may_change(by, role, to, has_other_owner).map_err(|broken| match broken {
        Broken::NotAnOwner => refuse(
            &code::FORBIDDEN,
            "only an owner of the organization makes, changes or removes an owner",
        ),
        Broken::LastOwner => refuse(
            &code::LAST_OWNER,
            "this is the organization's last owner; make another member `owner` first",
        ),
    })?;
    Ok(from)
}

/// Invitations that nobody has accepted yet.
#[utoipa::path(get, path = "/orgs/{slug}/invitations", tag = "organizations", params(("slug" = String, Path, description = "The organization"), InvitationsQuery),
               responses((status = 200, description = "A page", body = Page<Invitation>)))]
async fn list_invitations(
    State(context): State<Context>,
    Path(slug): Path<String>,
    Query(query): Query<InvitationsQuery>,
) -> Result<Json<Page<Invitation>>, Error> {
    let window = query.window()?;
    let organization = named(&context, &slug).await?;
    let (rows, total) = invitation::list(&context.lists, organization, &window).await?;
    Ok(Json(window.page(rows, total)))
}

/// Invites an address; this answer is the only time that the token is shown.
///
/// Whoever has the token and an account of this address can accept within seven days. It replaces an earlier
/// invitation of the same address.
#[utoipa::path(post, path = "/orgs/{slug}/invitations", tag = "organizations",
               params(("slug" = String, Path, description = "The organization")), request_body = CreateInvitationRequest,
               responses((status = 201, description = "The invitation", body = CreatedInvitation)))]
async fn invite(
    State(context): State<Context>,
    person: Person,
    actor: Actor,
    Path(slug): Path<String>,
    Json(request): Json<CreateInvitationRequest>,
) -> Result<Response, Error> {
    let email = request.email.trim();
    if !crate::email::is_plausible(email) {
        return Err(refuse(
            &code::INVALID_EMAIL,
            "the e-mail address is not one: write it as name@example.com",
        ));
    }
    let role = request.role.unwrap_or(Role::Developer);
    let organization = named(&context, &slug).await?;
    let token = SecretString::from(format!("zi_{}", to_hex(&random_bytes::<32>())));
    let mut change = Change::begin(&context.pool, &actor).await?;
    // As if they were made a member right now.
    allowed(&mut change, &person, organization, UserId::new(), Some(role)).await?;
    let new = invitation::New {
        organization,
        email,
        role,
        token_hash: &fingerprint(token.expose_secret()),
        created_by: person.id,
        expires_at: Time::now().plus(INVITATION_TTL),
    };
    // They take no place from it.
    invitation::end(&mut change, Some(organization), Duration::ZERO).await?;
    let made = invitation::insert(change.connection(), &new).await?;
    let made = made.ok_or_else(|| {
        let most = invitation::INVITATIONS_MAX;
        refuse(
            &code::TOO_MANY_INVITATIONS,
            format!("`{slug}` has {most} open invitations; withdraw some"),
        )
    })?;
    change
        .event(
            "invitation.created",
            About::organization(organization),
            &format!("{email} was invited to `{slug}` as `{role}`"),
        )
        .await?;
    let path = format!("/orgs/{slug}/invitations");
    let shown = CreatedInvitation {
        invitation: made,
        token: token.expose_secret().to_owned(),
    };
    super::created(change, &path, shown).await
}

/// Withdraws an invitation; its token is worth nothing from now on.
#[utoipa::path(delete, path = "/orgs/{slug}/invitations/{id}", tag = "organizations",
               params(("slug" = String, Path, description = "The organization"), ("id" = InvitationId, Path, description = "The invitation")),
               responses((status = 204, description = "Withdrawn")))]
async fn withdraw(
    State(context): State<Context>,
    actor: Actor,
    Path((slug, id)): Path<(String, InvitationId)>,
) -> Result<StatusCode, Error> {
    let organization = named(&context, &slug).await?;
    let mut change = Change::begin(&context.pool, &actor).await?;
    let email = invitation::delete(change.connection(), organization, id).await?;
    let email = email.ok_or_else(|| {
        refuse(
            &code::INVITATION_NOT_FOUND,
            format!("`{slug}` has no open invitation {id}"),
        )
    })?;
    let what = format!("the invitation of {email} to `{slug}` was withdrawn");
    change
        .event("invitation.withdrawn", About::organization(organization), &what)
        .await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Accepts an invitation: makes you a member.
///
/// A higher role that you have already stays.
#[utoipa::path(post, path = "/invitations/accept", tag = "organizations", request_body = AcceptInvitationRequest,
               responses((status = 200, description = "Your membership", body = Membership)))]
async fn accept(
    State(context): State<Context>,
    person: Person,
    actor: Actor,
    Json(request): Json<AcceptInvitationRequest>,
) -> Result<Json<Membership>, Error> {
    let mut change = Change::begin(&context.pool, &actor).await?;
    let membership = take_up(&mut change, &request.token, person.id, &person.email).await?;
    change.commit().await?;
    Ok(Json(membership))
}

/// Refuses a token that is none, before any work is done for it. Guesses count for the address that they come from.
pub(super) async fn check_invitation(
    context: &Context,
    token: &str,
    email: &str,
    client: Option<IpAddr>,
) -> Result<(), Error> {
    let counter = [attempts::of_address(Kind::Address, client)];
    let token = fingerprint(token);
    let look = async {
        Ok(invitation::holds(&context.pool, &token, email)
            .await?
            .then_some(()))
    };
    let held = context.attempts.guess(counter, look).await?;
    held.ok_or_else(no_invitation)
}

/// Makes the user with this address a member, as the invitation's token says.
pub(super) async fn take_up(
    change: &mut Change<'_>,
    token: &str,
    user: UserId,
    email: &str,
) -> Result<Membership, Error> {
    let (connection, token) = (change.connection(), fingerprint(token));
    let whose = invitation::organization_of(connection, &token, email).await?;
    // Before the invitation, as whoever invites the address again holds it: or the two wait for each other.
    member::hold(connection, whose.ok_or_else(no_invitation)?).await?;
    let offer = invitation::take(connection, &token, email).await?;
    let offer = offer.ok_or_else(no_invitation)?;
    let organization = offer.organization_id;
    let before = member::get(change.connection(), organization, user).await?;
    let role = before.map_or(offer.role, |member| member.role.max(offer.role));
    member::set(change.connection(), organization, user, role).await?;
    let what = format!(
        "{email} accepted an invitation and is `{role}` of `{}`",
        offer.organization
    );
    change
        .event("member.added", About::organization(organization), &what)
        .await?;
    Ok(Membership {
        organization_id: organization,
        organization: offer.organization,
        role,
    })
}

/// The organization that the path names; the guard has found it a moment ago.
pub(super) async fn named(context: &Context, slug: &str) -> Result<OrganizationId, Error> {
    let found = organization::by_slug(&context.pool, slug).await?;
    found.ok_or_else(|| super::gone(Thing::Organization, slug))
}

fn no_invitation() -> Error {
    refuse(
        &code::INVITATION_NOT_FOUND,
        "the invitation was accepted or withdrawn, has ended, or is for another address; ask for a new one",
    )
}

fn no_member(slug: &str, user: UserId) -> Error {
    refuse(
        &code::MEMBER_NOT_FOUND,
        format!("`{slug}` has no member {user}; invite them with POST /orgs/{slug}/invitations"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_owners_touch_owners_and_one_always_stays() {
        let all: Vec<Option<Role>> = Role::ALL.iter().copied().map(Some).chain([None]).collect();
        for by in [Role::Admin, Role::Owner] {
            for from in &all {
                for to in &all {
                    for other in [false, true] {
                        let touches = *from == Some(Role::Owner) || *to == Some(Role::Owner);
                        let ends = *from == Some(Role::Owner) && *to != Some(Role::Owner);
                        let expected = match by {
                            Role::Owner if ends && !other => Err(Broken::LastOwner),
                            Role::Owner => Ok(()),
                            _ if touches => Err(Broken::NotAnOwner),
                            _ => Ok(()),
                        };
                        assert_eq!(
                            may_change(by, *from, *to, other),
                            expected,
                            "{by} {from:?} {to:?} {other}"
                        );
                    }
                }
            }
        }
    }
}
