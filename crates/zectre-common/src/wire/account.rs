//! Accounts as an admin of the cluster sees them.

use crate::{id::UserId, time::Time};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Someone's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Account {
    /// Its id.
    pub id: UserId,
    /// Its address.
    pub email: String,
    /// Its name.
    pub name: String,
    /// May manage the cluster.
    pub is_admin: bool,
    /// Can't sign in, and none of its tokens and keys is taken.
    pub disabled: bool,
    /// When it signed up.
    pub created_at: Time,
}

/// `POST /user/password`
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangePasswordRequest {
    /// The one that holds now.
    pub current_password: String,
    /// At least 8 characters.
    pub new_password: String,
}

/// Answer to `POST /users/{id}/reset-password`: the only time that the token is shown.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct PasswordReset {
    /// Whose.
    pub email: String,
    /// Sets a new password, once; form `zr_…`.
    pub token: String,
    /// When it ends.
    pub expires_at: Time,
}

/// `POST /auth/reset-password`
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResetPasswordRequest {
    /// From an admin of the cluster.
    pub token: String,
    /// At least 8 characters.
    pub new_password: String,
}
