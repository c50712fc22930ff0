//! What a catalog says about people, organizations and clusters.

use crate::{
    id::{ClusterId, EventId, InvitationId, OrganizationId, UserId},
    state::Role,
    time::Time,
};
use serde::{Deserialize, Serialize};

/// `GET /api/v1/me`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Me {
    /// The account; the `sub` of its tokens.
    pub id: UserId,
    /// The account's name at GitHub.
    pub login: String,
    /// Its primary address there.
    pub email: String,
    /// Its name there.
    pub name: String,
    /// Since when the catalog knows it.
    pub created_at: Time,
    /// Its memberships.
    pub orgs: Vec<Membership>,
}

/// A membership of one's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The organization.
    pub slug: String,
    /// What it is called.
    pub name: String,
    /// What one may do in it.
    pub role: Role,
}

/// An organization of the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Organization {
    /// Its id.
    pub id: OrganizationId,
    /// Its name in URLs and tokens.
    pub slug: String,
    /// What it is called.
    pub name: String,
    /// What the caller may do in it.
    pub role: Role,
    /// When it was made.
    pub created_at: Time,
}

/// `POST /api/v1/orgs`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateOrganizationRequest {
    /// Its name in URLs and tokens: lower-case letters, digits and `-`.
    pub slug: String,
    /// What it is called; default: the slug.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A member of an organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The account.
    pub user_id: UserId,
    /// Its name at GitHub.
    pub login: String,
    /// Its address.
    pub email: String,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Whether that follows from an organization of GitHub.
    pub from_github: bool,
    /// Since when it is a member.
    pub created_at: Time,
}

/// `PUT /api/v1/orgs/{slug}/members/{user_id}` and `PUT /api/v1/orgs/{slug}/github/{github_org_id}`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRoleRequest {
    /// The role from now on.
    pub role: Role,
}

/// `POST /api/v1/orgs/{slug}/invitations`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateInvitationRequest {
    /// The address of the account that may accept it.
    pub email: String,
    /// The role it offers; default `developer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// An invitation, without its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Its id.
    pub id: InvitationId,
    /// The slug of the organization.
    pub organization: String,
    /// The address of the account that may accept it.
    pub email: String,
    /// The role it offers.
    pub role: Role,
    /// When it was made.
    pub created_at: Time,
    /// When it ends.
    pub expires_at: Time,
}

/// The answer to [`CreateInvitationRequest`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedInvitation {
    /// The invitation.
    #[serde(flatten)]
    pub invitation: Invitation,
    /// What accepts it; shown this once.
    pub token: String,
}

/// `POST /api/v1/invitations/accept`
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptInvitationRequest {
    /// As the invitation was shown.
    pub token: String,
}

/// The role that members of an organization of GitHub get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GithubMapping {
    /// GitHub's number for the organization.
    pub github_org_id: i64,
    /// The role.
    pub role: Role,
    /// Since when.
    pub created_at: Time,
}

/// Something that was done: an element of `GET /api/v1/orgs/{slug}/events` and of `GET /api/v1/me/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its id.
    pub id: EventId,
    /// When.
    pub time: Time,
    /// The account that did it, as in `sub` of its tokens; none where the catalog itself did.
    pub actor_id: Option<UserId>,
    /// Its name at GitHub then, or the catalog's.
    pub actor: String,
    /// What: `member.removed`.
    pub action: String,
    /// To whom or what, by name.
    pub subject: String,
    /// The same as a sentence.
    pub message: String,
    /// From where.
    pub source_address: Option<String>,
    /// Of the request that asked for it.
    pub request_id: Option<String>,
}

/// A cluster that people reach with tokens of the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// The slug of the organization that has it.
    pub organization: String,
    /// Its name there.
    pub name: String,
    /// Where its API is, without a slash at the end.
    pub api_base_url: String,
    /// The `aud` of tokens for it: its `auth.jwt_expected_aud`.
    pub audience: String,
    /// When it was added.
    pub created_at: Time,
}

/// `POST /api/v1/clusters`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateClusterRequest {
    /// The slug of the organization that is to have it.
    pub organization: String,
    /// Its name there: lower-case letters, digits and `-`.
    pub name: String,
    /// Where its API is.
    pub api_base_url: String,
    /// The `aud` of tokens for it; default: one that nobody can guess.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

/// `PUT /api/v1/clusters/{id}`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateClusterRequest {
    /// Its name.
    pub name: String,
    /// Where its API is.
    pub api_base_url: String,
}

/// The answer of `POST /oauth/token`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Tokens {
    /// For the audience that was asked for.
    pub access_token: String,
    /// Always `Bearer`.
    pub token_type: String,
    /// How long it holds, in seconds.
    pub expires_in: u64,
    /// What gets the next one; it takes the place of the one that was sent.
    pub refresh_token: String,
}

/// A refusal of `POST /oauth/token` (RFC 6749, section 5.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRefusal {
    /// Which rule: `invalid_grant`, `invalid_request`, …
    pub error: String,
    /// What happened and what to do.
    #[serde(default)]
    pub error_description: String,
}
