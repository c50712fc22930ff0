//! People, API keys and login.

use crate::{
    id::{ApiKeyId, OrganizationId, UserId},
    state::{Role, Scope},
    time::Time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /auth/signup`
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignupRequest {
    /// Compared without regard to case.
    pub email: String,
    /// At least 8 characters.
    pub password: String,
    /// Shown to others; default: the part of the e-mail address before `@`.
    pub name: Option<String>,
    /// Whether it may manage the cluster; only an admin of the cluster may say so. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_admin: Option<bool>,
    /// The token of an invitation of this address: makes the account a member too. Needed where sign-up takes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<String>,
}

/// `POST /auth/login`
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// Compared without regard to case.
    pub email: String,
    /// The password.
    pub password: String,
}

/// Answer to a login.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct LoginResponse {
    /// Goes into `Authorization: Bearer …`.
    pub token: String,
    /// When the token ends.
    pub expires_at: Time,
    /// Who signed in.
    pub user: User,
}

/// A membership of the signed-in user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Membership {
    /// The organization.
    pub organization_id: OrganizationId,
    /// Its slug.
    pub organization: String,
    /// The role in it.
    pub role: Role,
}

/// A person or a robot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Its address.
    pub email: String,
    /// Its name.
    pub name: String,
    /// May manage the cluster.
    pub is_admin: bool,
    /// Its organizations (only in answers about oneself).
    #[serde(default)]
    pub memberships: Vec<Membership>,
    /// When it signed up.
    pub created_at: Time,
}

/// `POST /api-keys`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApiKeyRequest {
    /// What it is for.
    pub name: String,
    /// When it ends; default never.
    pub expires_at: Option<Time>,
    /// What it may do; none: everything that you may. With some it never manages your account.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Scope>,
}

/// An API key, without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// What it is for.
    pub name: String,
    /// The first characters of the key, to tell keys apart.
    pub prefix: String,
    /// What it may do; none: everything that its owner may.
    #[serde(default)]
    pub scopes: Vec<Scope>,
    /// When it ends.
    pub expires_at: Option<Time>,
    /// When it was last used (kept to the minute).
    pub last_used_at: Option<Time>,
    /// When it was made.
    pub created_at: Time,
}

/// A new API key: the only time the key itself is shown.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedApiKey {
    /// What is kept.
    #[serde(flatten)]
    pub api_key: ApiKey,
    /// Goes into `X-API-Key`; form `zk_…`.
    pub key: String,
}

/// An organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Organization {
    /// Its id.
    pub id: OrganizationId,
    /// Its slug.
    pub slug: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Time,
}

/// `POST /orgs`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateOrganizationRequest {
    /// Lower case letters, digits and `-`.
    pub slug: String,
    /// Default: the slug.
    pub name: Option<String>,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Namespace {
    /// Its id.
    pub id: crate::id::NamespaceId,
    /// Its name.
    pub name: String,
    /// The slug of the organization that owns it.
    pub organization: String,
    /// When it was made.
    pub created_at: Time,
}

/// `POST /namespaces`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateNamespaceRequest {
    /// Lower case letters, digits and `-`.
    pub name: String,
    /// Slug of the owner; default `default`.
    pub organization: Option<String>,
}
