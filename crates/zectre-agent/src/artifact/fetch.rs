//! Brings an artifact's bytes into a file, hashing them on the way.

use crate::error::StartError;
use http::StatusCode;
use sha2::{Digest, Sha256};
use std::{path::Path, time::Duration};
use tokio::{fs::File, io::AsyncWriteExt};
use zectre_common::{state::Reason, wire::agent::ArtifactRef};
use zectre_service::{call::without_query, key::to_hex};

/// How long a registry may be silent before the attempt is given up.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long all attempts together may take.
const FETCH_DEADLINE: Duration = Duration::from_secs(600);
/// Attempts, when the registry can't be reached or fails.
const ATTEMPTS_MAX: u32 = 4;
/// The pause before the second attempt; doubled before each more.
const PAUSE: Duration = Duration::from_millis(250);

enum Attempt {
    /// Worth another one.
    Again(String),
    /// It would end the same.
    Final(StartError),
}

/// Fetches `artifact` into `path` and verifies its hash.
pub(super) async fn fetch(
    http: &reqwest::Client,
    artifact: &ArtifactRef,
    path: &Path,
) -> Result<(), StartError> {
    let attempts = async {
        let mut pause = PAUSE;
        for attempt in 1.. {
            match try_fetch(http, artifact, path).await {
                Ok(()) => return Ok(()),
                Err(Attempt::Final(error)) => return Err(error),
                Err(Attempt::Again(why)) if attempt >= ATTEMPTS_MAX => {
                    return Err(unreachable(artifact, &why));
                }
                Err(Attempt::Again(why)) => tracing::info!(artifact = %artifact.id, why, "fetching again"),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(())
    };
    match tokio::time::timeout(FETCH_DEADLINE, attempts).await {
        Ok(fetched) => fetched,
        Err(_) => Err(unreachable(
            artifact,
            &format!("it took longer than {} s", FETCH_DEADLINE.as_secs()),
        )),
    }
}

fn unreachable(artifact: &ArtifactRef, why: &str) -> StartError {
    let message = format!(
        "the artifact {} could not be fetched from {}: {why}",
        artifact.id,
        without_query(&artifact.url)
    );
    StartError::new(Reason::ArtifactMissing, message)
}

async fn try_fetch(http: &reqwest::Client, artifact: &ArtifactRef, path: &Path) -> Result<(), Attempt> {
    let again = |error: reqwest::Error| Attempt::Again(error.without_url().to_string());
    let request = http.get(&artifact.url).send();
    let mut response = silence(request).await?.map_err(again)?;
    match response.status() {
        status if status.is_success() => {}
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            return Err(Attempt::Again(format!("the registry answered {status}")));
        }
        status => {
            return Err(Attempt::Final(unreachable(
                artifact,
                &format!("the registry answered {status}"),
            )));
        }
    }
    let broken = |error: std::io::Error| Attempt::Final(StartError::disk("to store an artifact", &error));
    let mut file = File::create(path).await.map_err(broken)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0_u64);
    while let Some(chunk) = silence(response.chunk()).await?.map_err(again)? {
        bytes += chunk.len() as u64;
        if bytes > artifact.size {
            return Err(Attempt::Final(corrupt(
                artifact,
                &format!("it is larger than its {} bytes", artifact.size),
            )));
        }
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(broken)?;
    }
    // `sync_data` alone would keep the failure of the last write to itself.
    file.flush().await.map_err(broken)?;
    file.sync_data().await.map_err(broken)?;
    let sha256 = to_hex(&hash.finalize());
    if sha256 != artifact.sha256 {
        return Err(Attempt::Final(corrupt(
            artifact,
            &format!("its SHA-256 is {sha256}, not {}", artifact.sha256),
        )));
    }
    Ok(())
}

fn corrupt(artifact: &ArtifactRef, why: &str) -> StartError {
    StartError::new(
        Reason::ArtifactCorrupt,
        format!("the artifact {} is not what was announced: {why}", artifact.id),
    )
}

async fn silence<F: Future>(future: F) -> Result<F::Output, Attempt> {
    tokio::time::timeout(SILENCE_MAX, future)
        .await
        .map_err(|_| Attempt::Again(format!("the registry was silent for {} s", SILENCE_MAX.as_secs())))
}
