//! Images on the engine: bringing them there, and taking them away again.

use crate::{
    Engine,
    error::{Error, answer},
    image_name::{registry_of, split_tag},
};
use bollard::{
    auth::DockerCredentials,
    models::CreateImageInfo,
    query_parameters::{CreateImageOptions, RemoveImageOptions},
};
use futures_util::TryStreamExt;
use secrecy::{ExposeSecret, SecretString};
use std::{collections::HashMap, time::Duration};

/// What a registry wants to see before it gives its images away.
#[derive(Debug, Clone)]
pub struct Login {
    /// The user.
    pub username: String,
    /// The password, or an access token.
    pub password: SecretString,
}

/// How far a pull has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that have arrived.
    pub current_bytes: u64,
    /// Bytes of the layers that are known of so far.
    pub total_bytes: u64,
}

/// An image that is on the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The engine's id of it: the hash of its configuration.
    pub id: String,
    /// Bytes, shared layers included.
    pub bytes: u64,
}

/// Adds up what the engine tells of each layer.
#[derive(Debug, Default)]
struct Layers(HashMap<String, Progress>);

impl Layers {
    fn observe(&mut self, info: CreateImageInfo) -> Progress {
        let is_download = info.status.as_deref() == Some("Downloading");
        // An engine leaves out what comes too fast to be read, the last step of a layer too.
        if let ("Download complete" | "Pull complete", Some(layer)) =
            (info.status.as_deref().unwrap_or_default(), &info.id)
            && let Some(seen) = self.0.get_mut(layer)
        {
            seen.current_bytes = seen.total_bytes;
        }
        if let (Some(layer), Some(detail)) = (info.id, info.progress_detail)
            && let Some(current) = detail.current.filter(|_| is_download)
        {
            let seen = self.0.entry(layer).or_default();
            seen.current_bytes = u64::try_from(current).unwrap_or(0);
            seen.total_bytes =
                u64::try_from(detail.total.unwrap_or(0)).map_or(0, |total| total.max(seen.current_bytes));
        }
        let sum = |of: fn(&Progress) -> u64| self.0.values().map(of).sum();
        Progress {
            current_bytes: sum(|layer| layer.current_bytes),
            total_bytes: sum(|layer| layer.total_bytes),
        }
    }
}

impl Engine {
    /// What the engine has under this name; `None` when it isn't there.
    ///
    /// # Errors
    /// The engine's failure.
    pub async fn image(&self, name: &str) -> Result<Option<Image>, Error> {
        match self.docker.inspect_image(name).await {
            Ok(found) => Ok(Some(Image {
                id: found.id.unwrap_or_default(),
                bytes: found.size.and_then(|size| size.try_into().ok()).unwrap_or(0),
            })),
            Err(error) if matches!(answer(&error), Some((404, _))) => Ok(None),
            Err(source) => Err(Error::Engine {
                doing: "look for an image",
                source,
            }),
        }
    }

    /// Brings `image` to the engine unless it is there; says whether it had to be pulled. `progress` hears how far
    /// it has come, many times a second.
    ///
    /// # Errors
    /// [`Error::ImageNotFound`] when its registry doesn't have it or refuses it, [`Error::RegistryUnreachable`], [`Error::PullFailed`] when the
    /// registry or the way to it fails, [`Error::DiskFull`], [`Error::PullTimeout`] after `deadline`, else the engine's
    /// failure.
    pub async fn pull_if_missing(
        &self,
        image: &str,
        login: Option<&Login>,
        deadline: Duration,
        mut progress: impl FnMut(Progress),
    ) -> Result<bool, Error> {
        if self.image(image).await?.is_some() {
            return Ok(false);
        }
        let (name, tag) = split_tag(image);
        let options = CreateImageOptions {
            from_image: Some(name.into()),
            tag: Some(tag.into()),
            ..CreateImageOptions::default()
        };
        let registry = registry_of(image);
        let credentials = login.map(|login| credentials(registry, login)).transpose()?;
        let mut layers = Layers::default();
        let pull = async {
            let mut news = std::pin::pin!(self.docker.create_image(Some(options), None, credentials));
            while let Some(info) = news.try_next().await? {
                progress(layers.observe(info));
            }
            Ok(())
        };
        match tokio::time::timeout(deadline, pull).await {
            Ok(Ok(())) => {}
            Ok(Err(source)) => return Err(Error::pull(image, source)),
            Err(_) => {
                return Err(Error::PullTimeout {
                    image: image.into(),
                    deadline,
                });
            }
        }
        // Podman ends a pull that its registry refused without a word of it.
        match self.image(image).await? {
            Some(_) => Ok(true),
            None => Err(Error::ImageNotFound {
                image: image.into(),
                detail: "the engine ended the pull without it".into(),
            }),
        }
    }

    /// Removes an image, unless a container still needs it: then `false`.
    ///
    /// # Errors
    /// The engine's failure.
    pub async fn remove_image(&self, image: &str) -> Result<bool, Error> {
        let options = RemoveImageOptions::default();
        match self.docker.remove_image(image, Some(options), None).await {
            Ok(_) => Ok(true),
            Err(error) => match answer(&error) {
                Some((404, _)) => Ok(true),
                // In use. Podman says 500 for it.
                Some((409, _)) => Ok(false),
                Some((_, words)) if words.contains("in use") => Ok(false),
                _ => Err(Error::Engine {
                    doing: "remove an image",
                    source: error,
                }),
            },
        }
    }
}

/// The client library encodes logins in plain base64, and engines read the variant for URLs: where the two differ an
/// engine takes it for no login at all, so that is told here.
fn credentials(registry: &str, login: &Login) -> Result<DockerCredentials, Error> {
    let credentials = DockerCredentials {
        username: Some(login.username.clone()),
        password: Some(login.password.expose_secret().into()),
        serveraddress: Some(registry.into()),
        ..DockerCredentials::default()
    };
    let unusable = || Error::LoginUnusable {
        registry: registry.into(),
    };
    let json = serde_json::to_vec(&credentials).map_err(|_| unusable())?;
    // The two differ in what stands for 62 and 63; in ASCII only the last of three bytes can come to that.
    let differs = |(index, byte): (usize, &u8)| !byte.is_ascii() || index % 3 == 2 && byte & 63 >= 62;
    if json.iter().enumerate().any(differs) {
        return Err(unusable());
    }
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ProgressDetail;

    #[test]
    fn a_login_that_would_be_garbled_is_refused() {
        let login = |password: &str| Login {
            username: "u".into(),
            password: password.into(),
        };
        assert!(credentials("r", &login("correct horse")).is_ok());
        // One of three places in a row is the last of three bytes.
        assert!(credentials("r", &login("~~~")).is_err());
        assert!(credentials("r", &login("pässword")).is_err());
    }

    #[test]
    fn layers_add_up() {
        let info = |layer: &str, status: &str, current, total| CreateImageInfo {
            id: Some(layer.into()),
            status: Some(status.into()),
            progress_detail: Some(ProgressDetail { current, total }),
            ..CreateImageInfo::default()
        };
        let mut layers = Layers::default();
        layers.observe(info("a", "Downloading", Some(10), Some(100)));
        layers.observe(info("b", "Downloading", Some(5), Some(50)));
        layers.observe(info("a", "Extracting", Some(3), Some(100)));
        layers.observe(info("c", "Download complete", None, None));
        assert_eq!(
            layers.observe(info("a", "Downloading", Some(60), Some(100))),
            Progress {
                current_bytes: 65,
                total_bytes: 150
            }
        );
        layers.observe(info("b", "Download complete", None, None));
        assert_eq!(
            layers.observe(info("a", "Pull complete", None, None)),
            Progress {
                current_bytes: 150,
                total_bytes: 150
            }
        );
    }
}
