//! Content out: whole, in ranges, or not at all when the client has it already.

use super::App;
use crate::{
    blobs::Blob,
    digest::Digest,
    error::{Error, NAME_BYTES_MAX},
    range::{self, Wanted},
    store::artifacts,
};
use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
        IF_RANGE, RANGE, X_CONTENT_TYPE_OPTIONS,
    },
};
use serde::Deserialize;
use std::{
    io::{Seek, SeekFrom},
    ops::Range,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;
use zectre_common::id::ArtifactId;
use zectre_service::{
    extract::{Path, Query},
    problem::Failure,
    signed_url,
    token::name,
};

/// Read from disk at once: fewer trips to the blocking pool against memory per download.
const READ_BYTES: usize = 512 * 1024;
/// Content never changes under its hash.
const IMMUTABLE: &str = "private, max-age=31536000, immutable";
/// An id has no content until it is uploaded, so it must be asked again.
const REVALIDATE: &str = "private, no-cache";

/// `GET` and `HEAD /api/v1/artifacts/{id}/download`
pub async fn by_id(
    State(app): State<App>,
    Path(id): Path<ArtifactId>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    super::authorize(&app, &headers, &[name::API, name::BUILD])?;
    let row = artifacts::get(&app.pool, id).await?.ok_or(Error::NotFound(id))?;
    let digest = row.digest.ok_or(Error::NotUploaded(id))?;
    Ok(answer(&app, &digest, &row.content_type, REVALIDATE, &method, &headers).await?)
}

/// The signature of a download URL.
#[derive(Debug, Deserialize)]
pub struct Signature {
    expires: Option<u64>,
    signature: Option<String>,
}

/// `GET` and `HEAD /artifacts/{sha256}/{name}`: no row is read, so this works while the database is away.
pub async fn by_content(
    State(app): State<App>,
    Path((sha256, file)): Path<(String, String)>,
    Query(signature): Query<Signature>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let signed = match (signature.expires, &signature.signature) {
        (Some(expires), Some(given)) => signed_url::verify(&app.key, &sha256, expires, given, unix_secs()),
        _ => {
            super::authorize(&app, &headers, &[name::API, name::BUILD])?;
            true
        }
    };
    if !signed {
        return Err(Error::Signature.into());
    }
    let digest: Digest = sha256.parse().map_err(Error::Digest)?;
    if !is_name(&file) {
        return Err(Error::Name.into());
    }
    Ok(answer(
        &app,
        &digest,
        "application/octet-stream",
        IMMUTABLE,
        &method,
        &headers,
    )
    .await?)
}

fn unix_secs() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A plain file name: what [`CreateArtifactRequest`](zectre_common::wire::artifact::CreateArtifactRequest) allows.
fn is_name(name: &str) -> bool {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    plain && (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.bytes().all(|byte| byte == b'.')
}

async fn answer(
    app: &App,
    digest: &Digest,
    content_type: &str,
    caching: &'static str,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Error> {
    let blob = app
        .blobs
        .get(digest)
        .await?
        .ok_or_else(|| Error::Missing(digest.clone()))?;
    let etag = format!("\"{digest}\"");
    let header = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let fresh = header(IF_NONE_MATCH).is_some_and(|tags| range::names(tags, &etag));
    // A range of something else than the client has would be worse than everything.
    let same = header(IF_RANGE).is_none_or(|tag| tag == etag);
    let wanted = range::wanted(header(RANGE).filter(|_| same), blob.size);

    let mut response = Response::new(Body::empty());
    let out = response.headers_mut();
    out.insert(
        ETAG,
        HeaderValue::from_str(&etag).expect("hex digits in quotes are a header value"),
    );
    out.insert(CACHE_CONTROL, HeaderValue::from_static(caching));
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if fresh {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let part = match wanted {
        Wanted::All => 0..blob.size,
        Wanted::Part(part) => {
            let span = format!("bytes {}-{}/{}", part.start, part.end - 1, blob.size);
            out.insert(
                CONTENT_RANGE,
                HeaderValue::from_str(&span).expect("digits are a header value"),
            );
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            part
        }
        Wanted::Outside => return Ok(outside(&blob)),
    };
    let out = response.headers_mut();
    let media = HeaderValue::from_str(content_type);
    out.insert(
        CONTENT_TYPE,
        media.unwrap_or(HeaderValue::from_static("application/octet-stream")),
    );
    // Nothing that people upload is ever a page of this host.
    out.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    out.insert(CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
    if method != Method::HEAD {
        *response.body_mut() = stream(app, blob, part)?;
    }
    Ok(response)
}

fn stream(app: &App, mut blob: Blob, part: Range<u64>) -> Result<Body, Error> {
    blob.file
        .seek(SeekFrom::Start(part.start))
        .map_err(|source| Error::Store {
            doing: "seek in",
            path: "the content".into(),
            source,
        })?;
    let sent = part.end - part.start;
    app.transfers.sent.inc_by(sent);
    let mut file = tokio::fs::File::from_std(blob.file);
    file.set_max_buf_size(READ_BYTES);
    Ok(Body::from_stream(ReaderStream::with_capacity(
        file.take(sent),
        READ_BYTES,
    )))
}

fn outside(blob: &Blob) -> Response {
    let detail = format!(
        "the range lies outside the content, which has {} bytes",
        blob.size
    );
    let mut response =
        Failure::new(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_NOT_SATISFIABLE", detail).into_response();
    let span = format!("bytes */{}", blob.size);
    let span = HeaderValue::from_str(&span).expect("digits are a header value");
    response.headers_mut().insert(CONTENT_RANGE, span);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        assert!(is_name("hello-1.0_x86"));
        for odd in ["", ".", "..", "a/b", "a b", "ä", &"a".repeat(256)] {
            assert!(!is_name(odd), "{odd}");
        }
    }
}
