//! The connection to the engine: reaching it, and bringing images to it.

use crate::error::{Error, answer};
use bollard::{ClientVersion, Docker, query_parameters::CreateImageOptions};
use futures_util::TryStreamExt;
use std::time::Duration;

/// The oldest API that has everything we use; newer engines and Podman speak it too.
const API_VERSION: ClientVersion = ClientVersion {
    major_version: 1,
    minor_version: 41,
};
/// How long the engine may take to begin an answer.
const ANSWER_TIMEOUT_SECS: u64 = 30;

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
        match self.docker.ping().await {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Unreachable {
                socket: self.socket.clone(),
                source,
            }),
        }
    }

    /// Brings `image` to the engine unless it is there; says whether it had to be pulled.
    ///
    /// # Errors
    /// [`Error::ImageNotFound`] when its registry doesn't have it or refuses it, [`Error::PullTimeout`] after
    /// `deadline`, else the engine's failure.
    pub async fn pull_if_missing(&self, image: &str, deadline: Duration) -> Result<bool, Error> {
        match self.docker.inspect_image(image).await {
            Ok(_) => return Ok(false),
            Err(error) if matches!(answer(&error), Some((404, _))) => {}
            Err(source) => {
                return Err(Error::Engine {
                    doing: "look for an image",
                    source,
                });
            }
        }
        let (name, tag) = split_tag(image);
        let options = CreateImageOptions {
            from_image: Some(name.into()),
            tag: Some(tag.into()),
            ..CreateImageOptions::default()
        };
        let pull = self
            .docker
            .create_image(Some(options), None, None)
            .try_for_each(async |_| Ok(()));
        match tokio::time::timeout(deadline, pull).await {
            Ok(Ok(())) => Ok(true),
            Ok(Err(source)) => Err(Error::pull(image, source)),
            Err(_) => Err(Error::PullTimeout {
                image: image.into(),
                deadline,
            }),
        }
    }
}

/// The name and the tag of an image. Without a tag the engine would pull every tag there is; a digest stays
/// with the name.
fn split_tag(image: &str) -> (&str, &str) {
    if image.contains('@') {
        return (image, "");
    }
    match image.rsplit_once(':') {
        // A colon before a slash belongs to the registry's port.
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::split_tag;

    #[test]
    fn a_tag_is_told_from_a_port_and_a_digest() {
        assert_eq!(split_tag("nginx"), ("nginx", "latest"));
        assert_eq!(split_tag("nginx:1.27"), ("nginx", "1.27"));
        assert_eq!(split_tag("localhost:5000/app"), ("localhost:5000/app", "latest"));
        assert_eq!(split_tag("localhost:5000/app:v2"), ("localhost:5000/app", "v2"));
        assert_eq!(split_tag("app@sha256:aa"), ("app@sha256:aa", ""));
    }
}
