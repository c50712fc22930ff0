//! The page that shows that a claimed domain points here: answered by the proxy itself, at a host that leads nowhere.

use super::{Ingress, body::Answer, host::Host};
use bytes::Bytes;
use http::{HeaderValue, Method, Response, header, request::Parts};
use zectre_common::wire::domain::PAGE_PREFIX;

impl Ingress {
    /// The page, when the request is for the very token of its host's claim.
    pub(super) fn claim_page(&self, parts: &Parts, host: &Host) -> Option<Response<Answer>> {
        let token = parts.uri.path().strip_prefix(PAGE_PREFIX)?;
        if parts.method != Method::GET || self.tables.current().claim(&host.name)? != token {
            return None;
        }
        let mut response = Response::new(Answer::text(Bytes::copy_from_slice(token.as_bytes())));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Some(response)
    }
}
