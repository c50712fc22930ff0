//! Every error code of the API, in one table: docs/ERRORS.md is written from it.
//!
//! A code is never renamed and never given another meaning; people and programs match on it.

use http::StatusCode;
use std::fmt::Write as _;

/// A stable error code.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// `UPPER_SNAKE`.
    pub name: &'static str,
    /// The status it comes with.
    pub status: StatusCode,
    /// What it means and what to do.
    pub meaning: &'static str,
}

macro_rules! codes {
    ($($name:ident $status:ident $meaning:literal;)*) => {
        $(#[doc = $meaning] pub(crate) static $name: Code =
            Code { name: stringify!($name), status: StatusCode::$status, meaning: $meaning };)*
        /// All of them, in the order of docs/ERRORS.md.
        pub static ALL: &[&Code] = &[$(&$name,)*];
    };
}

codes! {
    MALFORMED_JSON BAD_REQUEST "The body is not JSON. The sentence names the line and column.";
    INVALID_INPUT BAD_REQUEST "A field is missing, unknown or wrong. `errors` names the fields where there are several.";
    INVALID_BODY BAD_REQUEST "The body could not be read to its end. Send it again.";
    INVALID_PATH BAD_REQUEST "The path holds something else than expected, mostly an id that is no UUID.";
    INVALID_QUERY BAD_REQUEST "A query parameter is unknown or has a wrong value. The sentence lists what is possible.";
    INVALID_EMAIL BAD_REQUEST "The e-mail address is not one.";
    WEAK_PASSWORD BAD_REQUEST "The password has fewer than 8 characters (or more than 1,024 bytes).";
    INVALID_RESET_TOKEN BAD_REQUEST "The token that sets a new password was used, replaced or mistyped, or has ended.";
    AUTHORIZATION_PENDING BAD_REQUEST "Nobody has approved the login of this command line yet. Ask again after `interval` seconds.";
    DEVICE_CODE_EXPIRED BAD_REQUEST "The login of this command line has ended, or its key was fetched. Begin another one.";
    NOTHING_TO_DEPLOY BAD_REQUEST "The deployment names no artifact, build or image, and no build of the application is under way.";
    INVALID_DIGEST BAD_REQUEST "The `Digest` header (or `X-Content-Sha256`) is not one: write it as `sha-256=` and base64.";
    UPLOAD_ABORTED BAD_REQUEST "The upload ended before its announced length. Send it again.";
    INVALID_IDEMPOTENCY_KEY BAD_REQUEST "`Idempotency-Key` must be 1 to 255 visible ASCII characters.";
    INVALID_LAST_EVENT_ID BAD_REQUEST "`Last-Event-ID` is not an id that this stream gave out. Leave it out to start anew.";
    INVALID_WEBHOOK BAD_REQUEST "The call is not one of a forge's webhook: a header is missing, or the body is not its JSON.";
    INVALID_SIGNATURE UNAUTHORIZED "No application has this repository as its source and a secret that signed the call.";
    UNAUTHENTICATED UNAUTHORIZED "No credential, or one that is wrong, expired or revoked. Log in, or send an API key as `X-API-Key`.";
    INVALID_CREDENTIALS UNAUTHORIZED "No account has this e-mail address and password.";
    FORBIDDEN FORBIDDEN "You are known, but your role does not allow this.";
    ACCOUNT_DISABLED FORBIDDEN "An admin has disabled this account: its password, logins and API keys are right, but not taken.";
    CATALOG_ACCOUNT_REFUSED FORBIDDEN "The catalog's token is good, but makes no account here: the address belongs to an account of this cluster, or is not verified.";
    CATALOG_ROLES_LAPSED FORBIDDEN "The catalog has not told of your roles for longer than `auth.catalog_roles_ttl_secs`, so they don't count for this credential any more. Sign in by the catalog again.";
    INSUFFICIENT_SCOPE FORBIDDEN "The API key's scopes, or that it ends, do not allow this, whatever its owner may do.";
    ACCESS_DENIED FORBIDDEN "The login of this command line was denied.";
    INVITATION_REQUIRED FORBIDDEN "This cluster takes sign-ups with an invitation only: send its token as `invitation`.";
    SIGNUP_CLOSED FORBIDDEN "This cluster takes no sign-ups. Ask its admin for an account.";
    NOT_FOUND NOT_FOUND "There is no such path.";
    APP_NOT_FOUND NOT_FOUND "There is no such application, or it is not yours.";
    ENVIRONMENT_NOT_FOUND NOT_FOUND "The application has no such environment. Make it first.";
    VARIABLE_NOT_FOUND NOT_FOUND "The application has no such variable in this environment.";
    DEPLOYMENT_NOT_FOUND NOT_FOUND "There is no such deployment, or it is not yours.";
    TASK_NOT_FOUND NOT_FOUND "There is no such task, or it is not yours.";
    ARTIFACT_NOT_FOUND NOT_FOUND "There is no such artifact, or it is not yours.";
    ARTIFACT_MISSING NOT_FOUND "The artifact is known, but its bytes are gone from the store. Upload it anew as another artifact.";
    BUILD_NOT_FOUND NOT_FOUND "There is no such build, or it is not yours.";
    NODE_NOT_FOUND NOT_FOUND "There is no such node.";
    NAMESPACE_NOT_FOUND NOT_FOUND "There is no such namespace, or it is not yours.";
    ORGANIZATION_NOT_FOUND NOT_FOUND "There is no such organization, or it is not yours.";
    USER_NOT_FOUND NOT_FOUND "There is no such account.";
    MEMBER_NOT_FOUND NOT_FOUND "The organization has no such member. Invite them.";
    INVITATION_NOT_FOUND NOT_FOUND "The invitation was accepted or withdrawn, has ended, or is for another address. Ask for a new one.";
    USER_CODE_NOT_FOUND NOT_FOUND "No command line waits with this code: it was mistyped, decided already, or has ended.";
    API_KEY_NOT_FOUND NOT_FOUND "You have no such API key.";
    DOMAIN_NOT_FOUND NOT_FOUND "The application has not claimed this domain.";
    WEBHOOK_NOT_FOUND NOT_FOUND "There is no such webhook, or it is not yours.";
    DELIVERY_NOT_FOUND NOT_FOUND "The webhook has no such delivery. They are kept for 30 days.";
    SOURCE_NOT_FOUND NOT_FOUND "The application has no connected repository.";
    METHOD_NOT_ALLOWED METHOD_NOT_ALLOWED "The path exists, but does not take this method.";
    UPLOAD_STALLED REQUEST_TIMEOUT "No byte of the upload came for too long. Send it again.";
    EMAIL_EXISTS CONFLICT "An account with this e-mail address exists. Log in instead.";
    ORGANIZATION_EXISTS CONFLICT "The slug is taken.";
    TOO_MANY_ORGANIZATIONS CONFLICT "You have made as many organizations as one person may (`quotas.orgs_per_user_max`). Use one of them.";
    TOO_MANY_NAMESPACES CONFLICT "The organization has as many namespaces as it may (`quotas.namespaces_per_org_max`). Use one of them.";
    QUOTA_EXCEEDED CONFLICT "The organization may not use more of this. The sentence says what it uses and what it may.";
    TOO_MANY_API_KEYS CONFLICT "You have as many API keys as you may. Delete some.";
    LAST_OWNER CONFLICT "The organization's last owner can't leave, be removed or get another role. Make another owner first.";
    LAST_ADMIN CONFLICT "The cluster's last admin can't be disabled. Make another one first.";
    TOO_MANY_INVITATIONS CONFLICT "The organization has as many open invitations as it may. Withdraw some.";
    NAMESPACE_EXISTS CONFLICT "The name is taken.";
    APP_EXISTS CONFLICT "The namespace has an application of this name, or another one has the same subdomain.";
    ENVIRONMENT_EXISTS CONFLICT "The application has this environment already.";
    ENVIRONMENT_PROTECTED CONFLICT "`production` and `development` belong to every application and can't be deleted.";
    NO_PUBLIC_PORT CONFLICT "All ports for plain TCP (`proxy.tcp_port_range`) are given away, or were given up within the last 24 hours. Widen the range, delete an environment that has one, or wait.";
    TOO_MANY_ENVIRONMENTS CONFLICT "The application has as many environments as it may. Delete one.";
    TOO_MANY_VARIABLES CONFLICT "The application has as many variables as it may. Delete some.";
    DOMAIN_EXISTS CONFLICT "The application has claimed this domain already.";
    DOMAIN_TAKEN CONFLICT "The domain belongs to another application. The sentence says what takes it from there.";
    DOMAIN_NOT_VERIFIED CONFLICT "Neither the TXT record nor the page of the domain holds its token. The sentence says what was found instead.";
    TOO_MANY_DOMAINS CONFLICT "The application has claimed as many domains as it may. Remove one.";
    TOO_MANY_WEBHOOKS CONFLICT "The organization has as many webhooks as it may. Delete one.";
    WEBHOOK_DISABLED CONFLICT "The webhook is not called any more, because it always failed. Enable it first.";
    WEBHOOK_REPLAYED CONFLICT "The forge's call has had its effect before; a second one has none.";
    ARTIFACT_UPLOADING CONFLICT "Another upload of the artifact is under way, or broke off within the last half minute. Repeat it after `Retry-After`.";
    ARTIFACT_NOT_READY CONFLICT "The artifact was announced, but not uploaded. Upload it first.";
    ARTIFACT_IMMUTABLE CONFLICT "The artifact was uploaded already. Make a new one for other bytes.";
    ARTIFACT_IN_USE CONFLICT "A deployment or a build refers to the artifact.";
    ARTIFACT_KIND_MISMATCH CONFLICT "The artifact is of a kind that can't be run, or empty.";
    BUILD_NOT_USABLE CONFLICT "The build failed or was cancelled. Start another one.";
    TOO_MANY_BUILDS CONFLICT "As many builds of the application wait or are under way as there may be. Wait until one has ended, or cancel one.";
    BUILD_FINISHED CONFLICT "The build has ended.";
    SOURCE_NOT_CONNECTED CONFLICT "The application has no connected repository. Send a tar archive as the body.";
    DEPLOYMENT_FINISHED CONFLICT "The rollout of the deployment has ended.";
    DEPLOYMENT_NOT_USABLE CONFLICT "The deployment failed, was cancelled, is still being rolled out, or runs to completion. The sentence says which, and what to do.";
    NOTHING_TO_ROLL_BACK_TO CONFLICT "No earlier deployment served this environment.";
    TASK_FINISHED CONFLICT "The task has ended.";
    NODE_IN_USE CONFLICT "Tasks run on the node. Drain it first.";
    IDEMPOTENCY_KEY_REUSED CONFLICT "The `Idempotency-Key` was used for another request. Use a new one.";
    IDEMPOTENCY_IN_PROGRESS CONFLICT "A request with this `Idempotency-Key` is at work, or was cut off less than about a minute ago. Repeat it after `Retry-After`: it is done once.";
    LENGTH_REQUIRED LENGTH_REQUIRED "Where artifacts have a quota, an upload says how long it is: send `Content-Length`.";
    BODY_TOO_LARGE PAYLOAD_TOO_LARGE "The body is larger than this endpoint takes.";
    ARTIFACT_TOO_LARGE PAYLOAD_TOO_LARGE "The artifact is larger than the registry takes.";
    UNSUPPORTED_MEDIA_TYPE UNSUPPORTED_MEDIA_TYPE "The `Content-Type` is not one that this endpoint takes. The sentence lists them.";
    HASH_MISMATCH UNPROCESSABLE_ENTITY "The uploaded bytes are not those of the `Digest` header. Upload again.";
    RANGE_NOT_SATISFIABLE RANGE_NOT_SATISFIABLE "The artifact ends before the range begins.";
    TOO_MANY_STREAMS TOO_MANY_REQUESTS "You have as many streams open as one caller may. Close one of them.";
    SLOW_DOWN TOO_MANY_REQUESTS "The command line asks for its key too often. From now on wait as long as `Retry-After` says.";
    TOO_MANY_ATTEMPTS TOO_MANY_REQUESTS "Too many failed logins, or attempts of another kind. Wait as long as `Retry-After` says.";
    INTERNAL INTERNAL_SERVER_ERROR "The platform failed. The request id leads to the cause in its logs.";
    OVERLOADED SERVICE_UNAVAILABLE "Too many requests (or open streams) at once. Try again.";
    DATABASE_UNAVAILABLE SERVICE_UNAVAILABLE "PostgreSQL does not answer. Try again.";
    CATALOG_UNAVAILABLE SERVICE_UNAVAILABLE "The trusted catalog does not tell its keys, and the token's is not among those known. Try again in a moment.";
    SERVICE_UNAVAILABLE SERVICE_UNAVAILABLE "A part of the platform does not answer. Try again.";
    DRAIN_INCOMPLETE GATEWAY_TIMEOUT "Tasks are still on the node after the longest wait; `errors` names them. The drain goes on.";
    TIMEOUT GATEWAY_TIMEOUT "The request took too long. It may still have its effect.";
}

/// docs/ERRORS.md.
pub fn errors_page() -> String {
    let mut page = String::from(
        "# Error codes\n\n\
         Every error answer of the API is `application/problem+json` (RFC 9457) with a `code` from this table. Codes are stable: match on\n\
         them, not on the sentence in `detail`. What the proxy answers in a program's place is in\n\
         [PROXY_ERRORS.md](PROXY_ERRORS.md). A wake that fails answers 503 with the deployment's reason code in capitals, such as\n\
         `NO_CAPACITY`. What the scheduler answers a machine that wants to join is in its agent's log; `NODE_NAME_TAKEN` (409) means that a\n\
         node of its name is known at another address: give it another one in `agent.name`, or delete that node first.\n\n\
         This page is written from the code; `ZECTRE_UPDATE=1 cargo test -p zectre-api` renews it.\n\n\
         | code | status | meaning |\n|---|---|---|\n",
    );
    for code in ALL {
        // Writing to a String can't fail.
        let _ = writeln!(
            page,
            "| `{}` | {} | {} |",
            code.name,
            code.status.as_u16(),
            code.meaning
        );
    }
    page
}
