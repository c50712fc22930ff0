//! Signing a command line in from a browser, or from another command line (after RFC 8628).

use super::auth::User;
use crate::{id::ApiKeyId, time::Time};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /auth/cli/initiate`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InitiateCliLoginRequest {
    /// What asks, as whoever approves is told; default `a command line`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
}

/// What a command line needs to wait for its approval.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct InitiatedCliLogin {
    /// Fetches the key; known to this command line alone.
    pub device_code: String,
    /// What a person types, or says to another command line; form `BCDF-GHJK`.
    pub user_code: String,
    /// Where a person approves.
    pub verification_url: String,
    /// Seconds until both codes end.
    pub expires_in: u32,
    /// Seconds to wait between two questions.
    pub interval: u32,
}

/// `POST /auth/cli/approve`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveCliLoginRequest {
    /// As the command line shows it; case, blanks and dashes don't matter.
    pub user_code: String,
    /// Whether it may act as you; default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approve: Option<bool>,
}

/// A command line that waits, or waited, for its approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CliLogin {
    /// What it calls itself.
    pub device_name: String,
    /// The address from which it asked.
    pub address: Option<String>,
    /// When it asked.
    pub created_at: Time,
}

/// `POST /auth/cli/token`
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CliTokenRequest {
    /// From the answer to `initiate`.
    pub device_code: String,
}

/// The key of an approved command line: the only time that it is shown.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CliToken {
    /// Goes into `X-API-Key`; form `zk_…`.
    pub api_key: String,
    /// By which it can be deleted.
    pub api_key_id: ApiKeyId,
    /// When it ends.
    pub expires_at: Option<Time>,
    /// Whose it is.
    pub user: User,
}
