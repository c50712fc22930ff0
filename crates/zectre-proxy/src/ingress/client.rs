//! Who is at the other end of a connection.

use crate::tls::listener::Hello;
use http::HeaderValue;
use std::net::{IpAddr, SocketAddr};

/// A client of a connection.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its address; what was IPv4 all along is IPv4.
    pub address: IpAddr,
    /// The same, for `X-Forwarded-For`.
    pub address_header: HeaderValue,
    /// How the connection began, when it is over TLS.
    pub tls: Option<Hello>,
    /// A load balancer of ours: what it says about others is believed.
    pub trusted: bool,
}

impl Client {
    /// From the peer's address.
    pub fn new(peer: SocketAddr, tls: Option<Hello>, trusted: bool) -> Self {
        let address = peer.ip().to_canonical();
        Self {
            address,
            address_header: address_header(address),
            tls,
            trusted,
        }
    }
}

/// An address as a header's value.
pub(super) fn address_header(address: IpAddr) -> HeaderValue {
    HeaderValue::try_from(address.to_string()).expect("an IP address is plain text")
}

/// What counts as one client for limits: an IPv4 address, or the /64 that one IPv6 subscriber has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientKey(u128);

impl ClientKey {
    /// Of an address.
    pub fn new(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits() & !u128::from(u64::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_is_one_client() {
        let key = |address: &str| ClientKey::new(address.parse().expect("an address"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_ne!(key("0.0.0.0"), key("::"));
    }
}
