//! Plain requests for names that have a certificate are sent to https. A name that has none yet is served as it is:
//! sending its visitors to a certificate that is not theirs would lock them out.

use super::Tls;
use crate::ingress::body::Answer;
use http::{HeaderValue, Response, StatusCode, Uri, header};

impl Tls {
    /// Where a plain request for `uri` at `host` is sent, if anywhere.
    pub(crate) fn redirect(&self, host: &str, uri: &Uri) -> Option<Response<Answer>> {
        let port = self.redirect_port?;
        self.resolver.find(host)?;
        let location = location(host, port, uri)?;
        let mut response = Response::new(Answer::empty());
        // 308 keeps the method, so that a form or an API call isn't turned into a GET.
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        response.headers_mut().insert(header::LOCATION, location);
        Some(response)
    }
}

fn location(host: &str, port: u16, uri: &Uri) -> Option<HeaderValue> {
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    // `OPTIONS *` is about the server, not about a page.
    if !path.starts_with('/') {
        return None;
    }
    let port = if port == 443 {
        String::new()
    } else {
        format!(":{port}")
    };
    HeaderValue::try_from(format!("https://{host}{port}{path}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_kept_and_the_port_is_named_where_it_must_be() {
        let at = |port, uri: &str| {
            let uri = uri.parse().expect("a URI");
            location("a.test", port, &uri).map(|value| value.to_str().expect("plain").to_owned())
        };
        assert_eq!(at(443, "/x?y=1").as_deref(), Some("https://a.test/x?y=1"));
        assert_eq!(at(8443, "http://a.test").as_deref(), Some("https://a.test:8443/"));
        assert_eq!(at(443, "*"), None);
    }
}
