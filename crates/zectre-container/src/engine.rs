//! The connection to the engine.

use crate::error::Error;
use bollard::{ClientVersion, Docker};
use std::time::Duration;

/// The oldest API that has everything we use; newer engines and Podman speak it too.
const API_VERSION: ClientVersion = ClientVersion {
    major_version: 1,
    minor_version: 41,
};
/// How long the engine may take to begin an answer.
const ANSWER_TIMEOUT_SECS: u64 = 30;
/// How long a healthy engine may take to say that it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A container engine, and on whose behalf it is used.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) docker: Docker,
    pub(crate) owner: String,
    socket: String,
}

impl Engine {
    /// Takes the engine at `socket` (a path). `owner` tells this agent's containers from other agents'.
    /// No connection is made yet: [`Engine::ping`] does.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when there is no socket.
    pub fn connect(socket: &str, owner: &str) -> Result<Self, Error> {
        let docker =
            Docker::connect_with_unix(socket, ANSWER_TIMEOUT_SECS, &API_VERSION).map_err(|source| {
                Error::Unreachable {
                    socket: socket.into(),
                    source,
                }
            })?;
        Ok(Self {
            docker,
            owner: owner.into(),
            socket: socket.into(),
        })
    }

    /// Whether the engine answers.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn ping(&self) -> Result<(), Error> {
        let source = match tokio::time::timeout(PING_TIMEOUT, self.docker.ping()).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(source)) => source,
            Err(_) => bollard::errors::Error::RequestTimeoutError,
        };
        Err(Error::Unreachable {
            socket: self.socket.clone(),
            source,
        })
    }
}
