//! Certificates from files. They are read again when they change; while what is there can't be served (a key that
//! has not been written yet, say), what was read before is.

use super::{Certificate, Origin, Resolver, Unusable, metrics::TlsMetrics};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};
use zectre_common::config::CertificateFiles;
use zectre_service::tasks::Shutdown;

/// How soon a new file is served.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why a certificate of the configuration can't be served.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A file can't be read.
    #[error("{path} (proxy.tls.certificates) can't be read: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is in it can't be served.
    #[error("{cert} with {key} (proxy.tls.certificates) can't be served: {source}")]
    Unusable {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: Unusable,
    },
}

/// One pair of files and what was last read from it.
#[derive(Debug)]
pub struct Watched {
    files: CertificateFiles,
    content: (Vec<u8>, Vec<u8>),
    certificate: Arc<Certificate>,
    /// What was said about it last, so that it is said once.
    trouble: Option<String>,
}

impl Watched {
    async fn new(files: &CertificateFiles) -> Result<Self, FileError> {
        let content = read(files).await?;
        Ok(Self {
            certificate: parse(files, &content)?,
            files: files.clone(),
            content,
            trouble: None,
        })
    }

    /// Whether there is another certificate now.
    async fn look(&mut self) -> Result<bool, FileError> {
        let content = read(&self.files).await?;
        if content == self.content {
            return Ok(false);
        }
        self.certificate = parse(&self.files, &content)?;
        self.content = content;
        Ok(true)
    }

    async fn refresh(&mut self) -> bool {
        match self.look().await {
            Ok(changed) => {
                self.trouble = None;
                if changed {
                    tracing::info!(
                        cert = %self.files.cert.display(),
                        days_left = self.certificate.days_left().round(),
                        "a new certificate is served"
                    );
                }
                changed
            }
            Err(error) => {
                let trouble = error.to_string();
                if self.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!(%error, "the certificate read before is still served");
                    self.trouble = Some(trouble);
                }
                false
            }
        }
    }
}

async fn read(files: &CertificateFiles) -> Result<(Vec<u8>, Vec<u8>), FileError> {
    let read = async |path: &PathBuf| {
        tokio::fs::read(path).await.map_err(|source| FileError::Read {
            path: path.clone(),
            source,
        })
    };
    Ok((read(&files.cert).await?, read(&files.key).await?))
}

fn parse(files: &CertificateFiles, content: &(Vec<u8>, Vec<u8>)) -> Result<Arc<Certificate>, FileError> {
    Certificate::from_pem(&content.0, &content.1)
        .map(Arc::new)
        .map_err(|source| FileError::Unusable {
            cert: files.cert.clone(),
            key: files.key.clone(),
            source,
        })
}

/// Reads them all for the first time; one that can't be served is an error then.
pub async fn load(files: &[CertificateFiles], resolver: &Resolver) -> Result<Vec<Watched>, FileError> {
    let mut watched = Vec::with_capacity(files.len());
    for files in files {
        watched.push(Watched::new(files).await?);
    }
    hand_over(&watched, resolver);
    Ok(watched)
}

fn hand_over(watched: &[Watched], resolver: &Resolver) {
    let certificates = watched.iter().map(|one| Arc::clone(&one.certificate)).collect();
    resolver.replace(Origin::Files, certificates);
}

/// Looks for changes until `shutdown`, and at how long all certificates still last.
pub async fn run(
    mut watched: Vec<Watched>,
    resolver: Arc<Resolver>,
    metrics: TlsMetrics,
    shutdown: Shutdown,
) {
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.or_requested(look.tick()).await.is_some() {
        let mut changed = false;
        for one in &mut watched {
            changed |= one.refresh().await;
        }
        if changed {
            hand_over(&watched, &resolver);
        }
        metrics.survey(&resolver);
    }
}
