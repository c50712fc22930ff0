//! Who a request is from when load balancers of ours stand in front (`zectre_service::forwarded` says who is believed what), as
//! the proxy hands it on.

use super::client::{Client, address_header};
use http::{HeaderMap, HeaderValue};
use std::net::IpAddr;
use zectre_common::{config::ProxyConfig, routing::normalize_host};
use zectre_service::forwarded;
pub(super) use zectre_service::forwarded::{FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO};

/// Whose word counts.
#[derive(Debug)]
pub struct Trust(forwarded::Trust);

/// What is known of the one who made the request.
#[derive(Debug, PartialEq, Eq)]
pub struct Sender {
    /// Its address.
    pub address: IpAddr,
    /// Whether it spoke TLS, as far as a load balancer said.
    pub secure: Option<bool>,
    /// The host it asked for, as far as a load balancer said.
    pub host: Option<HeaderValue>,
    /// The way from it to here, for `X-Forwarded-For`: the client first, then every load balancer.
    pub way: HeaderValue,
}

impl Trust {
    /// That of the configuration.
    pub fn new(proxy: &ProxyConfig) -> Self {
        Self(forwarded::Trust {
            peers: proxy.trusted_peers.clone(),
            header: proxy.trusted_header,
        })
    }

    /// Whether `address` is one of ours.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.0.holds(address)
    }

    /// Who made a request that came with `headers` on a connection of `client`. `None`: the client itself.
    pub fn sender(&self, headers: &HeaderMap, client: &Client) -> Option<Sender> {
        if !client.trusted {
            return None;
        }
        let told = self.0.told(headers, client.address);
        Some(Sender {
            address: told.way.last().copied().unwrap_or(client.address),
            secure: told
                .proto
                .and_then(|proto| match proto.to_ascii_lowercase().as_str() {
                    "https" => Some(true),
                    "http" => Some(false),
                    _ => None,
                }),
            host: told
                .host
                .filter(|host| normalize_host(host).is_some())
                .and_then(|host| HeaderValue::from_str(&host).ok()),
            way: if told.way.len() == 1 {
                client.address_header.clone()
            } else {
                way_header(&told.way)
            },
        })
    }
}

fn way_header(way: &[IpAddr]) -> HeaderValue {
    let names: Vec<_> = way.iter().rev().map(ToString::to_string).collect();
    HeaderValue::try_from(names.join(", ")).unwrap_or_else(|_| address_header(way[0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;
    use proptest::prelude::*;
    use std::net::SocketAddr;
    use zectre_common::config::TrustedHeader;

    fn trust(header: TrustedHeader) -> Trust {
        Trust(forwarded::Trust {
            peers: vec!["10.0.0.0/8".parse().expect("a range")],
            header,
        })
    }

    fn told(by: &str, header: TrustedHeader, lines: &[(&str, &str)]) -> Option<Sender> {
        let trust = trust(header);
        let peer: SocketAddr = format!("{by}:1").parse().expect("an address");
        let client = Client::new(peer, None, trust.holds(peer.ip()));
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::try_from(*name).expect("a name"),
                HeaderValue::try_from(*value).expect("a value"),
            );
        }
        trust.sender(&headers, &client)
    }

    fn x(by: &str, lines: &[(&str, &str)]) -> Option<Sender> {
        told(by, TrustedHeader::XForwardedFor, lines)
    }

    #[test]
    fn a_stranger_is_not_believed() {
        assert_eq!(x("192.0.2.1", &[("x-forwarded-for", "198.51.100.1")]), None);
    }

    #[test]
    fn the_first_that_is_none_of_ours_is_the_client() {
        let sender = x(
            "10.0.0.1",
            &[
                ("x-forwarded-for", "1.1.1.1, 198.51.100.1"),
                ("x-forwarded-for", "10.0.0.2"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "shop.example:8443"),
                ("forwarded", "for=9.9.9.9;proto=http"),
            ],
        )
        .expect("believed");
        assert_eq!(sender.address.to_string(), "198.51.100.1");
        assert_eq!(sender.way, "198.51.100.1, 10.0.0.2, 10.0.0.1");
        assert_eq!(sender.secure, Some(true));
        assert_eq!(sender.host.expect("told"), "shop.example:8443");
    }

    #[test]
    fn words_of_ours_stand_where_each_wrote_its_own() {
        let lines = [
            ("x-forwarded-for", "198.51.100.1, 10.0.0.2"),
            ("x-forwarded-proto", "https, http"),
        ];
        assert_eq!(x("10.0.0.1", &lines).expect("believed").secure, Some(true));
        // The stranger's own word about itself.
        let lines = [
            ("x-forwarded-for", "9.9.9.9, 198.51.100.1"),
            ("x-forwarded-proto", "https, http"),
        ];
        assert_eq!(x("10.0.0.1", &lines).expect("believed").secure, Some(false));
    }

    #[test]
    fn what_is_no_address_ends_the_way() {
        let sender = x("10.0.0.1", &[("x-forwarded-for", "9.9.9.9, unknown")]).expect("believed");
        assert_eq!(
            (sender.address.to_string().as_str(), &sender.way),
            ("10.0.0.1", &"10.0.0.1".parse().expect("a value"))
        );
        let sender = x(
            "10.0.0.1",
            &[("x-forwarded-proto", "https"), ("x-forwarded-host", "a b")],
        )
        .expect("believed");
        assert_eq!((sender.secure, sender.host), (Some(true), None));
    }

    #[test]
    fn the_standard_header_is_read_with_quotes_ports_and_brackets() {
        let lines = [
            (
                "forwarded",
                "for=9.9.9.9, for=\"[2001:db8::7]:4711\";Proto=https;host=\"a.example\", for=10.2.2.2:80;proto=http",
            ),
            ("x-forwarded-for", "6.6.6.6"),
        ];
        let sender = told("10.0.0.1", TrustedHeader::Forwarded, &lines).expect("believed");
        assert_eq!(sender.address.to_string(), "2001:db8::7");
        assert_eq!(sender.way, "2001:db8::7, 10.2.2.2, 10.0.0.1");
        assert_eq!(
            (sender.secure, sender.host.expect("told")),
            (Some(true), "a.example".parse().expect("a value"))
        );
        let hidden = told(
            "10.0.0.1",
            TrustedHeader::Forwarded,
            &[("forwarded", "for=\"_x, for=1.1.1.1\"")],
        );
        assert_eq!(hidden.expect("believed").address.to_string(), "10.0.0.1");
    }

    proptest! {
        /// However it is written: the client is never one of ours while a stranger stands behind it, and what is passed
        /// on ends with the peer.
        #[test]
        fn any_bytes_are_read_without_surprise(value in "[ -~]{0,80}", standard in any::<bool>()) {
            let (header, name) = if standard {
                (TrustedHeader::Forwarded, "forwarded")
            } else {
                (TrustedHeader::XForwardedFor, "x-forwarded-for")
            };
            let sender = told("10.0.0.1", header, &[(name, value.as_str())]).expect("believed");
            let way = sender.way.to_str().expect("text");
            prop_assert!(way.ends_with("10.0.0.1"));
            prop_assert!(way.starts_with(&sender.address.to_string()));
        }
    }
}
