//! Who a request is from when load balancers of ours stand in front. Only they are believed: from the nearest one back,
//! each one's word about the one before it, up to the first that is none of ours. What that one says is dropped.

use super::client::{Client, address_header};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};
use zectre_common::{
    cidr::Cidr,
    config::{ProxyConfig, TrustedHeader},
    routing::normalize_host,
};

pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Load balancers in a row; nobody has more.
const HOPS_MAX: usize = 16;

/// Whose word counts.
#[derive(Debug)]
pub struct Trust {
    /// Our load balancers.
    pub peers: Vec<Cidr>,
    /// How they tell about clients.
    pub header: TrustedHeader,
}

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

/// One word of a load balancer about the one before it.
#[derive(Debug, Default)]
struct Hop<'h> {
    from: Option<IpAddr>,
    proto: Option<Cow<'h, str>>,
    host: Option<Cow<'h, str>>,
}

impl Trust {
    /// That of the configuration.
    pub fn new(proxy: &ProxyConfig) -> Self {
        Self {
            peers: proxy.trusted_peers.clone(),
            header: proxy.trusted_header,
        }
    }

    /// Whether `address` is one of ours.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.peers.iter().any(|peer| peer.contains(address))
    }

    /// Who made a request that came with `headers` on a connection of `client`. `None`: the client itself.
    pub fn sender(&self, headers: &HeaderMap, client: &Client) -> Option<Sender> {
        if !client.trusted {
            return None;
        }
        let hops = match self.header {
            TrustedHeader::Forwarded => forwarded(headers),
            TrustedHeader::XForwardedFor => x_forwarded(headers),
        };
        let mut way = vec![client.address];
        let (mut proto, mut host) = (None, None);
        for hop in hops.into_iter().rev().take(HOPS_MAX) {
            // This hop was written by the last of the way, which is one of ours.
            proto = hop.proto.or(proto);
            host = hop.host.or(host);
            let Some(from) = hop.from else { break };
            way.push(from);
            if !self.holds(from) {
                break;
            }
        }
        let address = way.last().copied().unwrap_or(client.address);
        Some(Sender {
            address,
            secure: proto.and_then(|proto| match proto.to_ascii_lowercase().as_str() {
                "https" => Some(true),
                "http" => Some(false),
                _ => None,
            }),
            host: host
                .filter(|host| normalize_host(host).is_some())
                .and_then(|host| HeaderValue::from_str(&host).ok()),
            way: if way.len() == 1 {
                client.address_header.clone()
            } else {
                way_header(&way)
            },
        })
    }
}

fn way_header(way: &[IpAddr]) -> HeaderValue {
    let names: Vec<_> = way.iter().rev().map(ToString::to_string).collect();
    HeaderValue::try_from(names.join(", ")).unwrap_or_else(|_| address_header(way[0]))
}

/// The values of a list header, over all its lines.
fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Vec<&'h str> {
    let lines = headers.get_all(name).iter();
    // A line that is no text hides what stands in it, and nothing else.
    lines
        .flat_map(|line| line.to_str().unwrap_or_default().split(','))
        .map(str::trim)
        .collect()
}

fn x_forwarded(headers: &HeaderMap) -> Vec<Hop<'_>> {
    let from = list(headers, &FORWARDED_FOR);
    let (protos, hosts) = (list(headers, &FORWARDED_PROTO), list(headers, &FORWARDED_HOST));
    let last = from.len().checked_sub(1);
    let word = |of: &[&'_ str], at: usize| -> Option<String> {
        // One for each hop, or one that the nearest load balancer set; anything else is anybody's.
        let found = match of.len() {
            len if len == from.len() => of.get(at),
            _ => of.last().filter(|_| Some(at) == last),
        };
        found.map(|word| (*word).to_owned())
    };
    let mut hops: Vec<Hop<'_>> = from
        .iter()
        .enumerate()
        .map(|(at, from)| Hop {
            from: address(from),
            proto: word(&protos, at).map(Cow::Owned),
            host: word(&hosts, at).map(Cow::Owned),
        })
        .collect();
    if hops.is_empty() {
        hops.push(Hop {
            from: None,
            proto: protos.last().map(|proto| Cow::Owned((*proto).to_owned())),
            host: hosts.last().map(|host| Cow::Owned((*host).to_owned())),
        });
    }
    hops
}

fn forwarded(headers: &HeaderMap) -> Vec<Hop<'_>> {
    let lines = headers.get_all(header::FORWARDED).iter();
    let elements = lines.flat_map(|line| split(line.to_str().unwrap_or_default(), ','));
    elements.map(hop).collect()
}

/// One element of `Forwarded`.
fn hop(element: &str) -> Hop<'_> {
    let mut hop = Hop::default();
    for pair in split(element, ';') {
        let Some((name, value)) = pair.trim().split_once('=') else {
            continue;
        };
        let Some(value) = unquoted(value) else { continue };
        if name.eq_ignore_ascii_case("for") {
            hop.from = address(&value);
        } else if name.eq_ignore_ascii_case("proto") {
            hop.proto = Some(value);
        } else if name.eq_ignore_ascii_case("host") {
            hop.host = Some(value);
        }
    }
    hop
}

/// Splits at `at` outside quotes.
fn split(text: &str, at: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        if std::mem::take(&mut escaped) {
            return false;
        }
        escaped = quoted && c == '\\';
        quoted ^= c == '"';
        c == at && !quoted
    })
}

/// A token or a quoted string.
fn unquoted(value: &str) -> Option<Cow<'_, str>> {
    let Some(inner) = value.strip_prefix('"') else {
        return Some(value.into());
    };
    let inner = inner.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(inner.into());
    }
    let (mut text, mut escaped) = (String::new(), false);
    for c in inner.chars() {
        if !escaped && c == '\\' {
            escaped = true;
        } else {
            escaped = false;
            text.push(c);
        }
    }
    Some(text.into())
}

/// An address with or without a port; `None` for a name, `unknown` and the like.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address = text.parse().ok();
    address
        .or_else(bare)
        .or_else(|| text.parse().ok().map(|with_port: SocketAddr| with_port.ip()))
        .map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trust(header: TrustedHeader) -> Trust {
        Trust {
            peers: vec!["10.0.0.0/8".parse().expect("a range")],
            header,
        }
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
