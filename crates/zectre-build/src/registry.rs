//! Sources from the registry, programs to it: streamed, bounded, tried again while it doesn't answer.

use crate::{compiler::Program, core::verdict::Outcome};
use futures_util::StreamExt;
use http::{Method, StatusCode, header::CONTENT_LENGTH};
use sha2::{Digest, Sha256};
use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{io::AsyncWriteExt, time::Instant};
use tokio_util::io::ReaderStream;
use zectre_common::{id::ArtifactId, state::Reason, wire::artifact::StoredArtifact};
use zectre_service::{
    call::{Caller, problem_of},
    key::to_hex,
    token::name,
};

/// A registry that sends or takes nothing for so long is gone.
const STALL: Duration = Duration::from_secs(30);
/// An upload of the largest program ends before this.
const UPLOAD_MAX: Duration = Duration::from_secs(120);
/// How long a registry that doesn't answer is tried.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first pause between tries; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(100);
/// The largest problem answer that is read.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;
const READ_BYTES: usize = 256 * 1024;

/// The registry, as this worker sees it.
#[derive(Debug, Clone)]
pub struct Registry {
    caller: Caller,
    url: String,
    source_bytes_max: u64,
}

/// Why a try did not do.
enum Miss {
    /// Another one may.
    Again(String),
    /// None will.
    Stop(Outcome),
}

impl Registry {
    /// At `url`; sources are at most `source_bytes_max` bytes.
    pub fn new(caller: Caller, url: &str, source_bytes_max: u64) -> Self {
        Self {
            caller,
            url: url.trim_end_matches('/').to_owned(),
            source_bytes_max,
        }
    }

    /// Writes the source archive `id` to the file `to`.
    pub async fn download(&self, id: ArtifactId, to: &Path) -> Result<u64, Outcome> {
        patiently("the registry did not give the source", || {
            self.try_download(id, to)
        })
        .await
    }

    /// Stores `program` as the artifact `id`, which was announced.
    pub async fn upload(&self, id: ArtifactId, program: &Program) -> Result<(), Outcome> {
        let path = program.path.clone();
        let hashed = tokio::task::spawn_blocking(move || sha256(&path)).await;
        let sha256 = match hashed {
            Ok(Ok(sha256)) => sha256,
            Ok(Err(error)) => return Err(Outcome::Broken(format!("the program can't be read: {error}"))),
            Err(_) => return Err(Outcome::Broken("the program can't be read".into())),
        };
        patiently("the registry did not take the program", || {
            self.try_upload(id, program, &sha256)
        })
        .await
    }

    async fn try_download(&self, id: ArtifactId, to: &Path) -> Result<u64, Miss> {
        let url = format!("{}/api/v1/artifacts/{id}/download", self.url);
        let request = self.caller.request(Method::GET, &url, name::REGISTRY);
        let response = within(STALL, request.send()).await?;
        if !response.status().is_success() {
            return Err(refused(response, Reason::ArtifactMissing).await);
        }
        let disk = |error: std::io::Error| {
            Miss::Stop(Outcome::Broken(format!("the source can't be written: {error}")))
        };
        let mut file = tokio::fs::File::create(to).await.map_err(disk)?;
        let (mut body, mut size) = (response.bytes_stream(), 0);
        loop {
            let Some(chunk) = tokio::time::timeout(STALL, body.next())
                .await
                .map_err(|_| stalled())?
            else {
                break;
            };
            let chunk = chunk.map_err(|error| Miss::Again(error.to_string()))?;
            size += chunk.len() as u64;
            if size > self.source_bytes_max {
                return Err(Miss::Stop(Outcome::refused(
                    Reason::InvalidSource,
                    format!(
                        "the source archive is larger than {} bytes (build.source_bytes_max); leave out what the build doesn't need",
                        self.source_bytes_max
                    ),
                )));
            }
            file.write_all(&chunk).await.map_err(disk)?;
        }
        file.flush().await.map_err(disk)?;
        Ok(size)
    }

    async fn try_upload(&self, id: ArtifactId, program: &Program, sha256: &str) -> Result<(), Miss> {
        let url = format!("{}/api/v1/artifacts/{id}/upload", self.url);
        let opened = tokio::fs::File::open(&program.path).await;
        let file = opened
            .map_err(|error| Miss::Stop(Outcome::Broken(format!("the program can't be read: {error}"))))?;
        let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(file, READ_BYTES));
        let request = self.caller.request(Method::POST, &url, name::REGISTRY).body(body);
        let request = request
            .header("x-content-sha256", sha256)
            .header(CONTENT_LENGTH, program.size);
        let response = within(UPLOAD_MAX, request.send()).await?;
        if !response.status().is_success() {
            return Err(refused(response, Reason::BuildWorkerFailed).await);
        }
        let stored: StoredArtifact = within(STALL, response.json()).await?;
        if stored.sha256 == sha256 {
            Ok(())
        } else {
            Err(Miss::Again("it stored something else".into()))
        }
    }
}

fn sha256(path: &PathBuf) -> std::io::Result<String> {
    let (mut file, mut hash, mut buffer) =
        (std::fs::File::open(path)?, Sha256::new(), vec![0_u8; READ_BYTES]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(to_hex(&hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}

fn stalled() -> Miss {
    Miss::Again("it stopped answering".into())
}

async fn within<T>(deadline: Duration, call: impl Future<Output = reqwest::Result<T>>) -> Result<T, Miss> {
    let answered = tokio::time::timeout(deadline, call)
        .await
        .map_err(|_| stalled())?;
    answered.map_err(|error| Miss::Again(error.without_url().to_string()))
}

/// A refusal below 500 stays one; the code says what it means for the build.
async fn refused(response: reqwest::Response, reason: Reason) -> Miss {
    let status = response.status();
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Ok(Some(Ok(chunk))) = tokio::time::timeout(STALL, chunks.next()).await {
        body.extend_from_slice(&chunk);
        if body.len() > PROBLEM_BYTES_MAX {
            break;
        }
    }
    let problem = problem_of(status, &body);
    let sentence = format!(
        "the registry answered {}: {} ({})",
        problem.status, problem.detail, problem.code
    );
    let again = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        );
    match (again, reason) {
        (true, _) => Miss::Again(sentence),
        // A token that is refused or a row that is gone: not the source's fault.
        (false, Reason::BuildWorkerFailed) => Miss::Stop(Outcome::Broken(sentence)),
        (false, _) if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            Miss::Stop(Outcome::Broken(sentence))
        }
        (false, reason) => Miss::Stop(Outcome::refused(
            reason,
            format!("{sentence}; upload the source again"),
        )),
    }
}

async fn patiently<T, F>(what: &str, attempt: impl Fn() -> F) -> Result<T, Outcome>
where
    F: Future<Output = Result<T, Miss>>,
{
    let until = Instant::now() + PATIENCE;
    let mut pause = PAUSE;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(Miss::Stop(outcome)) => return Err(outcome),
            Err(Miss::Again(why)) if Instant::now() + pause > until => {
                return Err(Outcome::Broken(format!("{what}: {why}")));
            }
            Err(Miss::Again(why)) => {
                tracing::debug!(why, "trying again");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
    }
}
