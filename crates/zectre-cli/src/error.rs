//! What can go wrong for a command: a sentence that ends with what to do next, and an exit code.

use crate::{output::complain, up::UpError};
use std::{path::PathBuf, process::ExitCode};
use zectre_client::ClientError;
use zectre_common::{config::ConfigError, manifest::ManifestError, state::Reason};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// A call failed.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// The manifest is wrong.
    #[error(
        "{0}\nCorrect it and run the command again; `zectre schema` prints every key with what it takes."
    )]
    Manifest(#[from] ManifestError),
    /// The configuration is wrong.
    #[error("{0}\nCorrect the configuration and run the command again.")]
    Config(#[from] ConfigError),
    /// The command can't be meant so; the text says what to do.
    #[error("{0}")]
    Usage(String),
    /// It didn't work out; the text says why and what to do.
    #[error("{0}")]
    Failed(String),
    /// The API wants to know who asks.
    #[error("{}", not_signed_in(url, *refused))]
    NotSignedIn {
        /// The API.
        url: String,
        /// There is a sign-in, and the API doesn't take it.
        refused: bool,
    },
    /// What was given to sign in with doesn't work; the text says what to do.
    #[error("{0}")]
    Refused(String),
    /// What was named isn't there; the text says what to do.
    #[error("{0}")]
    NotFound(String),
    /// The build failed; everything about it has been shown.
    #[error("{0}")]
    BuildFailed(String),
    /// The deployment failed; everything about it has been shown.
    #[error("{0}")]
    DeploymentFailed(String),
    /// The project can't be packed.
    #[error("{0}")]
    Pack(#[from] crate::pack::PackError),
    /// A file can't be read or written.
    #[error("{path} can't be {action}: {source}. Check that the path is right and that you may use it.")]
    File {
        /// Which.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The operating system refused something.
    #[error("{0}. Try again; if it stays so, `zectre doctor` may know why.")]
    Io(#[from] std::io::Error),
    /// The platform can't be started or stopped.
    #[error("{0}")]
    Up(#[from] UpError),
    /// The API went away while something was waited for; the text says what goes on regardless.
    #[error("{0}")]
    Away(String),
    /// Ctrl-C; the text says what goes on regardless, and is empty when nothing does.
    #[error("{0}")]
    Interrupted(String),
}

impl CliError {
    /// A file that can't be read.
    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        |source| Self::File {
            path: path.into(),
            action: "read",
            source,
        }
    }

    /// A file that can't be written.
    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        |source| Self::File {
            path: path.into(),
            action: "written",
            source,
        }
    }

    /// As documented in docs/CLI.md.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) => match (error, error.status()) {
                (ClientError::Unreachable { .. } | ClientError::TimedOut { .. }, _) => 5,
                (_, Some(401 | 403)) => 3,
                (_, Some(404)) => 4,
                // Bad input is bad input, whoever notices it.
                (ClientError::BadUrl { .. }, _) | (_, Some(400)) => 2,
                _ => 1,
            },
            Self::Away(_) => 5,
            Self::Usage(_) => 2,
            Self::NotSignedIn { .. } | Self::Refused(_) => 3,
            Self::NotFound(_) => 4,
            Self::BuildFailed(_) | Self::DeploymentFailed(_) => 6,
            Self::Manifest(_) | Self::Config(_) => 64,
            Self::Interrupted(_) => 130,
            Self::Failed(_) | Self::Pack(_) | Self::File { .. } | Self::Io(_) | Self::Up(_) => 1,
        }
    }

    /// What to do next, where the message itself doesn't say it.
    fn hint(&self) -> Option<&'static str> {
        let Self::Client(error) = self else { return None };
        match (error.code(), error.status()) {
            (Some("INVALID_CREDENTIALS"), _) => Some("Check the address and the password and try again."),
            (Some("NOTHING_TO_ROLL_BACK_TO"), _) => Some(
                "`zectre status` shows its deployments: `zectre rollback VERSION` goes to one of them, `zectre deploy` makes \
                 a new one.",
            ),
            (Some("DOMAIN_NOT_VERIFIED"), _) => Some(
                "`zectre domains list` shows the record to set. A record may take some minutes until it is seen everywhere.",
            ),
            (Some("SIGNUP_CLOSED"), _) => {
                Some("An admin of the cluster can make the account: `zectre users add EMAIL`.")
            }
            (Some("ARTIFACT_NOT_FOUND"), _) => Some(
                "`zectre artifacts` shows what there is; `zectre deploy --artifact FILE` uploads a file and runs it.",
            ),
            (Some("ORGANIZATION_NOT_FOUND"), _) => Some(
                "`zectre orgs list` shows those of the cluster that you are in, `zectre catalog orgs list` those of the catalog.",
            ),
            (Some("NAMESPACE_NOT_FOUND"), _) => Some(
                "`zectre namespaces list` shows those there are; `zectre namespaces add NAME` makes one.",
            ),
            (Some("ENVIRONMENT_NOT_FOUND"), _) => Some("`zectre environments list` shows those there are."),
            (Some("INVITATION_NOT_FOUND"), _) => {
                Some("Sign in as the account that has the invited address, or have someone invite you again.")
            }
            (Some("INSUFFICIENT_SCOPE"), _) => Some(
                "The API key in use was made for less: `zectre tokens create` makes one with the scopes it needs, `zectre login` \
                 signs you in without such limits.",
            ),
            (_, Some(401)) => Some("Sign in with `zectre login`."),
            (_, Some(403)) => Some(
                "Ask someone who may to do it, or to give you the right to; `zectre whoami` shows the rights that you have.",
            ),
            (_, Some(404)) => Some("`zectre projects list` and `zectre status` show what there is."),
            (_, Some(429)) => Some("Wait a moment and try again."),
            (Some("NODE_IN_USE"), _) => Some("`zectre nodes drain NODE --wait` moves them away first."),
            (Some("APP_EXISTS"), _) => Some(
                "`zectre projects list` shows yours; where it is one of them, `zectre link NAME` links this directory to it.",
            ),
            (Some(code), Some(503)) if failed_wake(code).is_some() => failed_wake(code),
            (_, Some(500..)) => Some(
                "Try again. If it stays so, `zectre doctor` shows admins of the cluster which service is in trouble.",
            ),
            _ => None,
        }
    }

    /// An API that asks who calls, in terms of what this caller has: a sign-in that isn't taken, or none.
    pub(crate) fn for_caller(self, url: &str, signed_in: bool) -> Self {
        match self {
            Self::Client(error)
                if error.status() == Some(401) && error.code() != Some("INVALID_CREDENTIALS") =>
            {
                Self::NotSignedIn {
                    url: url.into(),
                    refused: signed_in,
                }
            }
            other => other,
        }
    }

    /// Shows the error on stderr.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            // It was wished, so it is no error.
            Self::Interrupted(what_goes_on) if what_goes_on.is_empty() => {}
            Self::Interrupted(what_goes_on) => complain(what_goes_on),
            error => complain(format!("error: {error}")),
        }
        if let Some(hint) = self.hint() {
            complain(hint);
        }
        ExitCode::from(self.exit_code())
    }
}

fn not_signed_in(url: &str, refused: bool) -> String {
    if refused {
        format!(
            "{url} does not take this sign-in any more: it was revoked or has expired. Run `zectre login`."
        )
    } else {
        format!(
            "you are not signed in to {url}. Run `zectre login`; on the machine of the platform, `zectre up` signs you in."
        )
    }
}

/// What to do about a wake that failed: its code is the reason in capitals.
fn failed_wake(code: &str) -> Option<&'static str> {
    let reason: Reason = serde_json::from_value(code.to_lowercase().into()).ok()?;
    Some(match reason {
        Reason::NoCapacity | Reason::NoEligibleNode => {
            "It wakes once there is room: `zectre sleep` or `zectre scale` of something else makes some, and an admin of the cluster \
             adds a node with `zectre nodes join`."
        }
        _ => "`zectre status` shows how it stands, `zectre logs` what it printed.",
    })
}

/// `text` with one full stop at its end, whatever it ended with.
pub(crate) fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end().trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zectre_common::wire::problem::Problem;

    fn refused(status: u16, code: &str) -> CliError {
        let problem = serde_json::json!({"type": "about:blank", "title": "t", "status": status, "detail": "API speech",
                                         "code": code});
        let problem: Problem = serde_json::from_value(problem).expect("a problem");
        CliError::Client(ClientError::Problem(Box::new(problem)))
    }

    #[test]
    fn who_is_not_signed_in_is_told_to_sign_in() {
        for (signed_in, says) in [
            (false, "not signed in to http://a"),
            (true, "revoked or has expired"),
        ] {
            let error = refused(401, "UNAUTHENTICATED").for_caller("http://a", signed_in);
            let text = error.to_string();
            assert!(text.contains(says) && text.contains("`zectre login`"), "{text}");
            assert!(!text.contains("API speech"), "{text}");
            assert_eq!(error.exit_code(), 3);
        }
        let wrong_password = refused(401, "INVALID_CREDENTIALS").for_caller("http://a", false);
        assert_eq!(wrong_password.to_string(), "API speech");
    }

    #[test]
    fn a_hint_helps_whoever_reads_it() {
        for (status, code, says, never) in [
            // Whether it takes a role or an admin of the cluster, the sentence before it says.
            (403, "FORBIDDEN", "`zectre whoami`", "organization"),
            (503, "NO_CAPACITY", "`zectre scale`", "doctor"),
            (503, "NO_ELIGIBLE_NODE", "`zectre nodes join`", "doctor"),
            (503, "PORT_NEVER_OPENED", "`zectre logs`", "doctor"),
            (
                503,
                "SERVICE_UNAVAILABLE",
                "`zectre doctor` shows admins",
                "wakes",
            ),
            (409, "NODE_IN_USE", "`zectre nodes drain", "doctor"),
        ] {
            let hint = refused(status, code).hint().unwrap_or_default();
            assert!(hint.contains(says) && !hint.contains(never), "{code}: {hint}");
        }
    }

    #[test]
    fn exit_codes_are_those_of_the_documentation() {
        let documented = include_str!("../../../docs/CLI.md");
        let examples = [
            (CliError::Failed(String::new()), 1),
            (CliError::Usage(String::new()), 2),
            (refused(400, "INVALID_INPUT"), 2),
            (refused(403, "FORBIDDEN"), 3),
            (CliError::NotFound(String::new()), 4),
            (
                CliError::Client(ClientError::TimedOut {
                    url: String::new(),
                    after_secs: 1,
                }),
                5,
            ),
            (CliError::BuildFailed(String::new()), 6),
            (CliError::Interrupted(String::new()), 130),
        ];
        for (error, code) in examples {
            assert_eq!(error.exit_code(), code, "{error:?}");
            assert!(
                documented.contains(&format!("| {code} |")),
                "{code} is documented"
            );
        }
    }

    #[test]
    fn a_sentence_ends_once() {
        assert_eq!(sentence("the disk is full.. "), "the disk is full.");
        assert_eq!(sentence("the disk is full"), "the disk is full.");
    }
}
