//! Why a call failed, in words that say what to do next.

use zectre_common::wire::problem::Problem;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The base URL can't be used.
    #[error("`{url}` is not the address of an API: write it as https://host or http://host:port")]
    BadUrl {
        /// What was given.
        url: String,
    },
    /// Nothing answers there.
    #[error(
        "no answer from {url} ({reason}). Start the platform with `zectre up`, or name another API with --api-url"
    )]
    Unreachable {
        /// The API's base URL.
        url: String,
        /// What the network said.
        reason: String,
    },
    /// Who answers there can't be believed to be the API.
    #[error("TLS with {url} failed ({reason}), and nothing was sent. {advice}")]
    Untrusted {
        /// The API's base URL.
        url: String,
        /// What is wrong, with its certificate mostly.
        reason: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// The API took too long.
    #[error(
        "{url} did not answer within {after_secs} s. Try again; `zectre doctor` shows which service is slow"
    )]
    TimedOut {
        /// What was called.
        url: String,
        /// The deadline that passed, in seconds.
        after_secs: u64,
    },
    /// The API refused, and says why.
    #[error("{}", explain(.0))]
    Problem(Box<Problem>),
    /// The answer is none that this API gives.
    #[error(
        "{url} answered in a way that Zectre does not ({what}). Check that --api-url names a Zectre API of this version"
    )]
    Protocol {
        /// What was called.
        url: String,
        /// What was wrong with the answer.
        what: String,
    },
    /// Reading what should be sent failed.
    #[error("{path} can't be read: {source}")]
    Source {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

impl ClientError {
    /// Whether the same read may succeed in a moment: nobody answers, or who does says that it can't for now.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Problem(problem) => matches!(problem.status, 502..=504),
            _ => false,
        }
    }

    /// The stable code of the API's refusal, when it is one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Problem(problem) => Some(&problem.code),
            _ => None,
        }
    }

    /// The HTTP status of the API's refusal, when it is one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem(problem) => Some(problem.status),
            _ => None,
        }
    }

    /// The thing asked for isn't there (or isn't for the caller to see).
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }
}

/// The sentence, then each wrong field, then the id to look for in the logs when the fault is the platform's.
fn explain(problem: &Problem) -> String {
    let mut lines = vec![problem.detail.clone()];
    let fields = problem
        .errors
        .iter()
        .map(|error| format!("{}: {}", error.field, error.message));
    // A single wrong field is the detail itself.
    let fields = fields.filter(|field| *field != problem.detail);
    lines.extend(fields.map(|field| format!("  {field}")));
    let id = problem.request_id.iter().filter(|_| problem.status >= 500);
    lines.extend(id.map(|id| format!("  (the platform's log tells more: request {id})")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_field_is_told_once() {
        let told = |detail: &str| {
            let problem = serde_json::json!({
                "type": "about:blank", "title": "Bad Request", "status": 400, "detail": detail, "code": "INVALID_INPUT",
                "errors": [{"field": "name", "message": "lower case letters"}],
            });
            explain(&serde_json::from_value(problem).expect("a problem"))
        };
        assert_eq!(told("name: lower case letters"), "name: lower case letters");
        assert_eq!(
            told("two fields are wrong"),
            "two fields are wrong\n  name: lower case letters"
        );
    }
}
