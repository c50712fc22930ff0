//! One GET of a URL that the operator wrote down: any address may be meant, nothing is followed.

use super::{
    exchange::exchange,
    tls::{Tls, bare_host},
};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use reqwest::Url;
use std::time::Duration;
use tokio::{net::TcpStream, time::timeout};

/// The body at `url`, at most `bytes_max` of it: a longer one is refused.
///
/// # Errors
/// A sentence that says why there is none.
pub(crate) async fn get(url: &Url, tls: &Tls, bytes_max: usize, within: Duration) -> Result<Vec<u8>, String> {
    // A handshake of TLS is kept on the way: too much to hand around.
    timeout(within, Box::pin(try_get(url, tls, bytes_max)))
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} ms", within.as_millis())))
}

async fn try_get(url: &Url, tls: &Tls, bytes_max: usize) -> Result<Vec<u8>, String> {
    let host = url.host_str().ok_or("the URL names no host")?;
    let port = url.port_or_known_default().ok_or("the URL names no port")?;
    let stream = TcpStream::connect((bare_host(host), port))
        .await
        .map_err(|error| format!("{host} port {port} can't be reached ({error})"))?;
    let authority = url
        .port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let query = url.query().map_or_else(String::new, |query| format!("?{query}"));
    let request = Request::get(format!("{}{query}", url.path()))
        .header(header::HOST, authority)
        .header(header::USER_AGENT, concat!("zectre/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::<Bytes>::default())
        .map_err(|error| format!("the URL can't be sent ({error})"))?;
    // One byte more than may be tells that there is more.
    let answer = if url.scheme() == "https" {
        exchange(tls.connect(host, stream).await?, request, bytes_max + 1).await?
    } else {
        exchange(stream, request, bytes_max + 1).await?
    };
    if answer.status != StatusCode::OK {
        return Err(format!("it answers {}", answer.status));
    }
    if answer.body.len() > bytes_max {
        return Err(format!("it answers more than {bytes_max} bytes"));
    }
    Ok(answer.body)
}
