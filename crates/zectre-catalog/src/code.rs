//! The stable codes of the catalog's problem answers; docs/AUTH_CATALOG.md lists them, and a test holds it to that.

use http::StatusCode;

/// A code of a problem answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// `UPPER_SNAKE`, never renamed.
    pub name: &'static str,
    /// The status that goes with it.
    pub status: StatusCode,
    /// One sentence for the documentation.
    pub meaning: &'static str,
}

macro_rules! codes {
    ($($name:ident = $status:ident, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub static $name: Code = Code {
            name: stringify!($name), status: StatusCode::$status, meaning: $meaning,
        };)*
        /// All of them.
        pub static ALL: &[&Code] = &[$(&$name,)*];
    };
}

codes! {
    INVALID_INPUT = BAD_REQUEST, "A field is missing, unknown or wrong; `errors` names it.";
    INVALID_PATH = BAD_REQUEST, "The path holds something else than expected, mostly an id that is no UUID.";
    INVALID_REQUEST = BAD_REQUEST, "A login was begun wrongly: the sentence names the parameter.";
    UNKNOWN_CLIENT = BAD_REQUEST, "No such client may sign people in here, or not with this redirect.";
    LOGIN_EXPIRED = BAD_REQUEST, "The login was not begun in this browser, or more than ten minutes ago. Begin it anew.";
    NO_VERIFIED_EMAIL = FORBIDDEN, "The GitHub account has no primary e-mail address that GitHub has verified.";
    UNAUTHENTICATED = UNAUTHORIZED, "No access token for the catalog, or one that has ended. Sign in.";
    FORBIDDEN = FORBIDDEN, "The role in the organization is not enough; the sentence says which one is.";
    ORGANIZATION_NOT_FOUND = NOT_FOUND, "There is no such organization, or the caller is no member of it.";
    CLUSTER_NOT_FOUND = NOT_FOUND, "There is no such cluster, or none of the caller's organizations has it.";
    MEMBER_NOT_FOUND = NOT_FOUND, "The organization has no such member.";
    INVITATION_NOT_FOUND = NOT_FOUND, "There is no such invitation for this account: it was used, withdrawn or has ended.";
    MAPPING_NOT_FOUND = NOT_FOUND, "The organization has no such mapping.";
    MAPPING_REFUSED = FORBIDDEN, "Only an administrator of an organization at GitHub maps it. Whoever has become one signs in again.";
    SLUG_TAKEN = CONFLICT, "Another organization has this slug.";
    NAME_TAKEN = CONFLICT, "The organization has a cluster of this name.";
    AUDIENCE_TAKEN = CONFLICT, "A cluster has, or had, this audience, and none is given out twice. Choose another one.";
    LAST_OWNER = CONFLICT, "An organization keeps an owner: name another one first.";
    LIMIT_REACHED = CONFLICT, "A bound of the catalog's `[limits]` is reached.";
    GITHUB_UNAVAILABLE = SERVICE_UNAVAILABLE, "GitHub does not answer, or not as expected.";
    DATABASE_UNAVAILABLE = SERVICE_UNAVAILABLE, "The catalog's database does not answer.";
}
