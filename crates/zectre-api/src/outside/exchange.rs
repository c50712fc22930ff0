//! One request and its answer over one connection.

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::future::{Future, pending};
use tokio::io::{AsyncRead, AsyncWrite};

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// The first bytes.
    pub(crate) body: Vec<u8>,
    pub(crate) retry_after_secs: Option<u64>,
}

/// Sends `request` over `stream`, and reads at most `bytes_max` of the answer.
///
/// # Errors
/// A sentence that says why there is no answer.
pub(super) async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    bytes_max: usize,
) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broke = |error: hyper::Error| format!("the connection broke off ({error})");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    let answered = async {
        let mut response = sender.send_request(request).await.map_err(broke)?;
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after_secs = retry_after
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.trim().parse().ok());
        let mut body = Vec::new();
        // An answer that breaks off later than its status has answered all the same.
        while let Some(Ok(frame)) = response.body_mut().frame().await {
            let Ok(data) = frame.into_data() else { continue };
            body.extend_from_slice(&data[..data.len().min(bytes_max - body.len())]);
            if body.len() >= bytes_max {
                break;
            }
        }
        Ok(Answer {
            status: response.status(),
            body,
            retry_after_secs,
        })
    };
    tokio::select! {
        answer = answered => answer,
        answer = forever(connection) => answer,
    }
}

/// Drives the connection; what it comes to shows in the answer.
async fn forever(connection: impl Future<Output = hyper::Result<()>>) -> Result<Answer, String> {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to outside ended badly");
    }
    pending().await
}
