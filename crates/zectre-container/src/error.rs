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

    /// What a refused pull means: a fault of the name, or of the engine.
    pub(crate) fn pull(image: &str, source: EngineError) -> Self {
        let words = match &source {
            EngineError::DockerResponseServerError { message, .. } => message.clone(),
            EngineError::DockerStreamError { error } => error.clone(),
            _ => {
                return Self::Engine {
                    doing: "pull an image",
                    source,
                };
            }
        };
        Self::ImageNotFound {
            image: image.into(),
            detail: words.trim().into(),
        }
    }
}
