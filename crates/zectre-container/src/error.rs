//! What can go wrong with a container engine, told apart by what the reader can do about it.

use bollard::errors::Error as EngineError;
use std::time::Duration;

/// A container could not be run, watched or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing answers at the socket.
    #[error(
        "the container engine at {socket} does not answer: start it, or correct agent.container_socket ({source})"
    )]
    Unreachable {
        /// The socket that was tried.
        socket: String,
        /// What the connection said.
        source: EngineError,
    },
    /// The image isn't there, or may not be pulled.
    #[error(
        "the image {image} can't be pulled: {detail}; check its name, and whether its registry needs a login (agent.registries)"
    )]
    ImageNotFound {
        /// As it was asked for.
        image: String,
        /// What the engine said.
        detail: String,
    },
    /// The registry's name leads nowhere, or nobody answers there.
    #[error(
        "the image {image} can't be pulled: its registry can't be reached ({detail}); check its name, and the way from the node to it"
    )]
    RegistryUnreachable {
        /// As it was asked for.
        image: String,
        /// What the engine said.
        detail: String,
    },
    /// The registry or the way to it failed, and the image may well be there.
    #[error("the image {image} could not be pulled: {detail}")]
    PullFailed {
        /// As it was asked for.
        image: String,
        /// What the engine said.
        detail: String,
    },
    /// The engine has no room for the image.
    #[error("the image {image} could not be pulled: the container engine's disk is full ({detail})")]
    DiskFull {
        /// As it was asked for.
        image: String,
        /// What the engine said.
        detail: String,
    },
    /// A registry's login can't be handed to the engine.
    #[error(
        "the login for {registry} can't be handed to the container engine: its client library garbles this password; use an access token, or one without `~`, `?`, `>` and letters beyond ASCII"
    )]
    LoginUnusable {
        /// The registry's host.
        registry: String,
    },
    /// The pull took longer than it may.
    #[error("pulling the image {image} took longer than {deadline:?}")]
    PullTimeout {
        /// As it was asked for.
        image: String,
        /// How long it was given.
        deadline: Duration,
    },
    /// Something else holds the host's port.
    #[error("port {0} is held by something else on this node")]
    PortTaken(u16),
    /// The program in the image can't be started.
    #[error("the container can't be started: {0}")]
    StartFailed(String),
    /// The container was made, and its program never started.
    #[error("the container {0} was never started")]
    NeverStarted(String),
    /// There is no such container (any more).
    #[error("the container {0} is gone from the engine")]
    Gone(String),
    /// The engine said something else.
    #[error("the container engine failed to {doing}: {source}")]
    Engine {
        /// What was asked of it.
        doing: &'static str,
        /// What it said.
        source: EngineError,
    },
}

/// The engine's own status and words, where it answered at all.
pub(crate) fn answer(error: &EngineError) -> Option<(u16, &str)> {
    match error {
        EngineError::DockerResponseServerError { status_code, message } => Some((*status_code, message)),
        _ => None,
    }
}

impl Error {
    /// What the engine said about one container while `doing` something.
    pub(crate) fn about(container: &str, doing: &'static str, source: EngineError) -> Self {
        match answer(&source) {
            Some((404, _)) => Self::Gone(container.into()),
            _ => Self::Engine { doing, source },
        }
    }

    /// What a refused start means; the engine only has words for it.
    pub(crate) fn start(host_port: Option<u16>, source: EngineError) -> Self {
        let Some((_, message)) = answer(&source) else {
            return Self::Engine {
                doing: "start a container",
                source,
            };
        };
        let taken = ["address already in use", "port is already allocated"];
        match host_port {
            Some(port) if taken.iter().any(|words| message.contains(words)) => Self::PortTaken(port),
            _ => Self::StartFailed(message.trim().into()),
        }
    }

    /// What a refused pull means; the engine only has words for it.
    pub(crate) fn pull(image: &str, source: EngineError) -> Self {
        let words = match &source {
            EngineError::DockerResponseServerError { message, .. } => message,
            EngineError::DockerStreamError { error } => error,
            _ => {
                return Self::Engine {
                    doing: "pull an image",
                    source,
                };
            }
        };
        let (image, detail) = (image.to_owned(), words.trim().to_owned());
        match pull_failure(answer(&source).map(|(status, _)| status), &detail) {
            PullFailure::Absent => Self::ImageNotFound { image, detail },
            PullFailure::Unreachable => Self::RegistryUnreachable { image, detail },
            PullFailure::DiskFull => Self::DiskFull { image, detail },
            PullFailure::Passing => Self::PullFailed { image, detail },
        }
    }

    /// Whether asking again in a moment may help.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::PullFailed { .. })
    }
}

/// What kept a pull from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PullFailure {
    /// No registry has it under this name, or none gives it to us.
    Absent,
    /// There is no registry of this name, or none there: a misspelt name looks like it, and that doesn't pass.
    Unreachable,
    DiskFull,
    /// Anything that may be over in a moment.
    Passing,
}

/// Words of engines and registries, in lower case, for an image that isn't to be had.
const ABSENT_WORDS: [&str; 10] = [
    "manifest unknown",
    "not found",
    "does not exist",
    "name unknown",
    "denied",
    "unauthorized",
    "authentication required",
    "no basic auth credentials",
    "forbidden",
    "invalid reference",
];
/// The same for a registry that isn't there at all.
const UNREACHABLE_WORDS: [&str; 4] = [
    "no such host",
    "connection refused",
    "no route to host",
    "network is unreachable",
];
/// The same for want of room.
const FULL_WORDS: [&str; 2] = ["no space left on device", "disk quota exceeded"];
/// The same for what passes although other words are in the sentence too.
const PASSING_WORDS: [&str; 3] = [
    "toomanyrequests",
    "too many requests",
    "unexpected http status: 5",
];

fn pull_failure(status: Option<u16>, words: &str) -> PullFailure {
    let words = words.to_lowercase();
    let has = |any: &[&str]| any.iter().any(|word| words.contains(word));
    if has(&FULL_WORDS) {
        PullFailure::DiskFull
    } else if has(&PASSING_WORDS) {
        PullFailure::Passing
    } else if has(&UNREACHABLE_WORDS) {
        PullFailure::Unreachable
    } else if status == Some(404) || has(&ABSENT_WORDS) {
        PullFailure::Absent
    } else {
        PullFailure::Passing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_pull_from_its_end_is_told_apart() {
        use PullFailure::{Absent, DiskFull, Passing, Unreachable};
        for (status, words, expected) in [
            (Some(404), "anything", Absent),
            (
                Some(500),
                "manifest for app:9 not found: manifest unknown: manifest unknown",
                Absent,
            ),
            (
                Some(404),
                "pull access denied for x/y, repository does not exist or may require 'docker login': denied",
                Absent,
            ),
            (
                Some(500),
                "Get \"https://r/v2/\": no basic auth credentials",
                Absent,
            ),
            (
                Some(500),
                "Get \"https://r/v2/\": dial tcp: lookup r on 10.0.0.2:53: no such host",
                Unreachable,
            ),
            (
                Some(500),
                "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
                Unreachable,
            ),
            (
                None,
                "write /var/lib/docker/tmp/GetImageBlob1: no space left on device",
                DiskFull,
            ),
            (
                Some(500),
                "failed to register layer: Error processing tar file: No space left on device",
                DiskFull,
            ),
            (
                Some(500),
                "received unexpected HTTP status: 503 Service Unavailable",
                Passing,
            ),
            (
                Some(429),
                "toomanyrequests: rate limit exceeded; access denied",
                Passing,
            ),
            (
                Some(500),
                "Get \"https://r/v2/\": net/http: TLS handshake timeout",
                Passing,
            ),
            (None, "unexpected EOF", Passing),
        ] {
            assert_eq!(pull_failure(status, words), expected, "{words}");
        }
    }
}
