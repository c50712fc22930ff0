//! Who belongs to an organization, and who is invited to.

use crate::{
    id::{InvitationId, UserId},
    state::Role,
    time::Time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A member of an organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// The user.
    pub user_id: UserId,
    /// Its address.
    pub email: String,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Since when it is a member.
    pub created_at: Time,
}

/// `PUT /orgs/{slug}/members/{user_id}`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetMemberRequest {
    /// What it may do from now on.
    pub role: Role,
}

/// `POST /orgs/{slug}/invitations`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateInvitationRequest {
    /// The address of the account that may accept it.
    pub email: String,
    /// The role it offers; default `developer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// An invitation that nobody has accepted yet, without its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invitation {
    /// Its id.
    pub id: InvitationId,
    /// The slug of the organization.
    pub organization: String,
    /// The address of the account that may accept it.
    pub email: String,
    /// The role it offers.
    pub role: Role,
    /// When it ends.
    pub expires_at: Time,
    /// When it was made.
    pub created_at: Time,
}

/// A new invitation: the only time its token is shown.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedInvitation {
    /// What is kept.
    #[serde(flatten)]
    pub invitation: Invitation,
    /// Accepts the invitation, and makes an account where sign-up takes an invitation; form `zi_…`.
    pub token: String,
}

/// `POST /invitations/accept`
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptInvitationRequest {
    /// The invitation's token.
    pub token: String,
}
