//! A client's body as it comes, whichever HTTP brings it. An enum and no trait object: most requests are small, and none pays
//! for a version that it doesn't speak.

use super::body::UploadError;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// A client's body.
#[derive(Debug)]
pub enum Inflow {
    /// By HTTP/1.1 or HTTP/2.
    Http(Incoming),
    /// By HTTP/3.
    #[cfg(feature = "http3")]
    Http3(Box<super::http3::Body>),
}

impl Body for Inflow {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match &mut *self {
            Self::Http(incoming) => Pin::new(incoming)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(UploadError::Http))),
            #[cfg(feature = "http3")]
            Self::Http3(body) => body
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(UploadError::Http3))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http(incoming) => incoming.is_end_stream(),
            #[cfg(feature = "http3")]
            Self::Http3(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http(incoming) => incoming.size_hint(),
            #[cfg(feature = "http3")]
            Self::Http3(body) => body.size_hint(),
        }
    }
}
