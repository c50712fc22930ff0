//! One POST to a URL that someone handed in.

use super::{
    exchange::{Answer, exchange},
    resolve::Names,
    tls::{Tls, bare_host},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::Full;
use reqwest::Url;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::{net::TcpStream, time::timeout};
use zectre_common::config::{DomainsConfig, WebhooksConfig};

/// What is read, and kept, of an answer.
pub(crate) const ANSWER_BYTES_MAX: usize = 1_024;
/// The longest URL.
const URL_BYTES_MAX: usize = 2_048;
/// What would allow private addresses.
const PRIVATE_KEY: &str = "webhooks.allow_private";

/// Sends POSTs.
pub(crate) struct Poster {
    names: Names,
    timeout: Duration,
    tls: Tls,
}

/// What can be called: checked once, when it is handed in.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Url, String> {
    if text.len() > URL_BYTES_MAX {
        return Err(format!("at most {URL_BYTES_MAX} bytes"));
    }
    let url =
        Url::parse(text).map_err(|error| format!("not a URL ({error}): write it as https://host/path"))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err("begins with https:// (or http://)".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("leave out the user and password: a signature shows who calls".into());
    }
    if url.fragment().is_some() {
        return Err("leave out the part after `#`: it is never sent".into());
    }
    if url.host_str().is_none_or(str::is_empty) || url.port_or_known_default().is_none_or(|port| port == 0) {
        return Err("names no host".into());
    }
    Ok(url)
}

impl Poster {
    /// As the configuration says.
    pub(crate) fn new(config: &WebhooksConfig, domains: &DomainsConfig) -> Self {
        Self {
            names: Names::new(&domains.dns_server, config.allow_private),
            timeout: Duration::from_millis(config.timeout_ms),
            tls: Tls::new(&config.ca_file, "webhooks.ca_file"),
        }
    }

    /// The longest that one POST takes.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Refuses a host that is an address nobody outside has; names are looked at when they are called, but for those that are
    /// always this machine's.
    pub(crate) fn check_address(&self, url: &Url) -> Result<(), String> {
        match literal(url).or_else(|| is_localhost(url).then_some(Ipv4Addr::LOCALHOST.into())) {
            Some(address) => self
                .names
                .usable(&address.to_string(), vec![address], PRIVATE_KEY)
                .map(drop),
            None => Ok(()),
        }
    }

    /// Sends it, and reads the first bytes of the answer.
    ///
    /// # Errors
    /// A sentence that says why there is no answer.
    pub(crate) async fn post(&self, url: &Url, headers: HeaderMap, body: Bytes) -> Result<Answer, String> {
        timeout(self.timeout, self.try_post(url, headers, body))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} ms", self.timeout.as_millis())))
    }

    async fn try_post(&self, url: &Url, headers: HeaderMap, body: Bytes) -> Result<Answer, String> {
        let host = url.host_str().ok_or("the URL names no host")?;
        let port = url.port_or_known_default().ok_or("the URL names no port")?;
        let addresses = match literal(url) {
            Some(address) => self.names.usable(host, vec![address], PRIVATE_KEY)?,
            None => {
                let resolver = self.names.resolver()?;
                self.names
                    .addresses(&resolver, host.trim_end_matches('.'), PRIVATE_KEY)
                    .await?
            }
        };
        // What is connected to is what was checked: the name is not resolved again.
        let stream = connect(&addresses, port).await?;
        let request = request(url, headers, body)?;
        if url.scheme() == "http" {
            return exchange(stream, request, ANSWER_BYTES_MAX).await;
        }
        let stream = self.tls.connect(host, stream).await?;
        exchange(stream, request, ANSWER_BYTES_MAX).await
    }
}

fn literal(url: &Url) -> Option<IpAddr> {
    bare_host(url.host_str()?).parse().ok()
}

/// RFC 6761, section 6.3: `localhost` and all names below it.
fn is_localhost(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    host == "localhost" || host.ends_with(".localhost")
}

async fn connect(addresses: &[IpAddr], port: u16) -> Result<TcpStream, String> {
    let mut problem = "there is no address".to_owned();
    for address in addresses {
        match TcpStream::connect(SocketAddr::new(*address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => problem = format!("{address} port {port} can't be reached ({error})"),
        }
    }
    Err(problem)
}

fn request(url: &Url, mut headers: HeaderMap, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
    let unusable = |error: &dyn std::fmt::Display| format!("the URL can't be sent ({error})");
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    let authority = format!("{}{port}", url.host_str().unwrap_or_default());
    let host = HeaderValue::from_str(&authority).map_err(|error| unusable(&error))?;
    headers.insert(header::HOST, host);
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("zectre/", env!("CARGO_PKG_VERSION"))),
    );
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let query = url.query().map_or_else(String::new, |query| format!("?{query}"));
    let mut request = Request::post(format!("{}{query}", url.path()))
        .body(Full::new(body))
        .map_err(|error| unusable(&error))?;
    *request.headers_mut() = headers;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_called_is_a_url() {
        for good in [
            "https://example.com",
            "http://example.com:8080/a?b=c",
            "https://[2606:4700::1111]/x",
            "https://1.1.1.1/",
        ] {
            parse(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in [
            "",
            "example.com",
            "ftp://example.com",
            "file:///etc/passwd",
            "https://user:password@example.com",
            "https://example.com/#a",
            "https://",
            "http://example.com:0/",
            "http://example.com:99999/",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&format!("https://example.com/{}", "a".repeat(URL_BYTES_MAX))).is_err());
    }

    #[test]
    fn however_an_address_is_written_it_is_looked_at() {
        let config = zectre_common::config::Config::load(None).expect("the defaults");
        let poster = Poster::new(&config.webhooks, &config.domains);
        for inside in [
            "http://127.0.0.1/",
            "http://LOCALHOST:8080/",
            "http://shop.localhost./",
            "http://0x7f.1/",
            "http://2130706433/",
            "http://0177.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "http://169.254.169.254/latest/meta-data",
        ] {
            let url = parse(inside).expect("a URL");
            assert!(poster.check_address(&url).is_err(), "{inside}");
        }
        let outside = parse("https://1.1.1.1/").expect("a URL");
        assert_eq!(poster.check_address(&outside), Ok(()));
    }
}
