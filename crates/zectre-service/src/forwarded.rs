//! Who a request is from when load balancers of ours stand in front. Only they are believed: from the nearest one back,
//! each one's word about the one before it, up to the first that is none of ours. What that one says is dropped.

use crate::server::Peer;
use axum::{Router, extract::Request, middleware};
use http::{HeaderMap, HeaderName, header};
use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use zectre_common::{cidr::Cidr, config::TrustedHeader};

/// Who was before, as most load balancers tell it.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// What that one spoke.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// What that one asked for.
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
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

/// What load balancers of ours told of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Told<'h> {
    /// The way that it took, from the nearest load balancer back to whoever made it. Never empty.
    pub way: Vec<IpAddr>,
    /// What its maker spoke, as far as they said.
    pub proto: Option<Cow<'h, str>>,
    /// The host that its maker asked for, as far as they said.
    pub host: Option<Cow<'h, str>>,
}

/// One word of a load balancer about the one before it.
#[derive(Debug, Default)]
struct Hop<'h> {
    from: Option<IpAddr>,
    proto: Option<Cow<'h, str>>,
    host: Option<Cow<'h, str>>,
}

impl Trust {
    /// Whether `address` is one of ours.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.peers.iter().any(|peer| peer.contains(address))
    }

    /// What is told by `headers` that came from `peer`, which is one of ours.
    pub fn told<'h>(&self, headers: &'h HeaderMap, peer: IpAddr) -> Told<'h> {
        let hops = match self.header {
            TrustedHeader::Forwarded => forwarded(headers),
            TrustedHeader::XForwardedFor => x_forwarded(headers),
        };
        let mut told = Told {
            way: vec![peer],
            proto: None,
            host: None,
        };
        for hop in hops.into_iter().rev().take(HOPS_MAX) {
            // This hop was written by the last of the way, which is one of ours.
            told.proto = hop.proto.or(told.proto);
            told.host = hop.host.or(told.host);
            let Some(from) = hop.from else { break };
            told.way.push(from);
            if !self.holds(from) {
                break;
            }
        }
        told
    }

    /// Who made a request that came with `headers` from `peer`; `None`: the peer itself, as nobody else is known.
    pub fn client(&self, headers: &HeaderMap, peer: IpAddr) -> Option<IpAddr> {
        if !self.holds(peer) {
            return None;
        }
        self.told(headers, peer).way.into_iter().skip(1).last()
    }
}

/// `router`, whose requests come with who made them as their [`Peer`]. (The port is not known then: it is 0.)
pub fn believing(router: Router, trust: Trust) -> Router {
    if trust.peers.is_empty() {
        return router;
    }
    let trust = Arc::new(trust);
    router.layer(middleware::map_request(move |mut request: Request| {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
        let client = peer.and_then(|peer| trust.client(request.headers(), peer));
        if let Some(client) = client {
            request.extensions_mut().insert(Peer(SocketAddr::new(client, 0)));
        }
        std::future::ready(request)
    }))
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

    fn client(peer: &str, header: TrustedHeader, lines: &[(&str, &str)]) -> String {
        let trust = Trust {
            peers: vec!["10.0.0.0/8".parse().expect("a range")],
            header,
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::try_from(*name).expect("a name"),
                value.parse().expect("a value"),
            );
        }
        let peer = peer.parse().expect("an address");
        trust.client(&headers, peer).unwrap_or(peer).to_string()
    }

    #[test]
    fn only_ours_are_believed_and_only_about_the_one_before() {
        let x = |peer, value| client(peer, TrustedHeader::XForwardedFor, &[("x-forwarded-for", value)]);
        assert_eq!(x("192.0.2.1", "198.51.100.1"), "192.0.2.1");
        assert_eq!(x("10.0.0.1", "198.51.100.1"), "198.51.100.1");
        assert_eq!(x("::ffff:10.0.0.1", "198.51.100.1"), "198.51.100.1");
        assert_eq!(x("10.0.0.1", "1.1.1.1, 198.51.100.1, 10.0.0.2"), "198.51.100.1");
        assert_eq!(x("10.0.0.1", "1.1.1.1, unknown"), "10.0.0.1");
        let standard = [("forwarded", "for=\"[2001:db8::7]:4711\"")];
        assert_eq!(
            client("10.0.0.1", TrustedHeader::Forwarded, &standard),
            "2001:db8::7"
        );
        assert_eq!(
            client("10.0.0.1", TrustedHeader::XForwardedFor, &standard),
            "10.0.0.1"
        );
    }

    proptest! {
        /// However it is written: it is read, and a stranger is believed nothing.
        #[test]
        fn any_bytes_are_read_without_surprise(value in "[ -~]{0,80}", standard in any::<bool>()) {
            let (header, name) = if standard {
                (TrustedHeader::Forwarded, "forwarded")
            } else {
                (TrustedHeader::XForwardedFor, "x-forwarded-for")
            };
            client("10.0.0.1", header, &[(name, value.as_str())]);
            prop_assert_eq!(client("192.0.2.1", header, &[(name, value.as_str())]), "192.0.2.1");
        }
    }
}
