//! What an access token says (RFC 9068).

use serde::{Deserialize, Serialize};
use zectre_common::{id::UserId, state::Role};

/// The `typ` of its header, by which no other kind of token passes for one.
pub const TYPE: &str = "at+jwt";

/// An access token's claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    /// This catalog: `server.public_url`.
    pub iss: String,
    /// Who.
    pub sub: UserId,
    /// For whom: the audience of one cluster, or this catalog itself.
    pub aud: String,
    /// When it ends, in seconds since the Unix epoch.
    pub exp: u64,
    /// When it was made.
    pub iat: u64,
    /// Its own id.
    pub jti: String,
    /// The client it was given to.
    pub client_id: String,
    /// The sign-in it comes from.
    pub sid: String,
    /// The primary address at GitHub.
    pub email: String,
    /// Always true: no other address is taken.
    pub email_verified: bool,
    /// The name at GitHub.
    pub name: String,
    /// For a cluster: the organization that has it. For the catalog: all of the person's.
    pub orgs: Vec<OrgClaim>,
}

/// One membership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrgClaim {
    /// The organization.
    pub slug: String,
    /// What it is called.
    pub name: String,
    /// What the person may do in it.
    pub role: Role,
}
