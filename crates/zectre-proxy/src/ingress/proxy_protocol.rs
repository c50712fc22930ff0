//! The PROXY protocol, version 2: in front of all else, a load balancer of ours says whose connection it brings
//! (<https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>). Only the addresses are read; what comes behind them
//! is passed over.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const HEAD_BYTES: usize = 16;
/// The longest that is taken: the addresses are at most 216 bytes, and nobody says so much about TLS.
const REST_BYTES_MAX: u16 = 4_096;

const IPV4_STREAM: u8 = 0x11;
const IPV6_STREAM: u8 = 0x21;

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Bad {
    #[error("it does not begin as one of version 2")]
    Signature,
    #[error("its command is neither LOCAL nor PROXY")]
    Command,
    #[error("it is longer than {REST_BYTES_MAX} bytes")]
    TooLong,
    #[error("it is not about a TCP connection")]
    Protocol,
    #[error("it is too short for its addresses")]
    TooShort,
}

/// The first part of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    /// It comes from the load balancer itself, to see whether we are there.
    local: bool,
    family: u8,
    rest: u16,
}

impl Head {
    fn parse(bytes: &[u8; HEAD_BYTES]) -> Result<Self, Bad> {
        let [signature @ .., command, family, high, low] = bytes;
        if *signature != SIGNATURE {
            return Err(Bad::Signature);
        }
        let local = match command {
            0x20 => true,
            0x21 => false,
            0x22..=0x2f => return Err(Bad::Command),
            _ => return Err(Bad::Signature),
        };
        let rest = u16::from_be_bytes([*high, *low]);
        if rest > REST_BYTES_MAX {
            return Err(Bad::TooLong);
        }
        Ok(Self {
            local,
            family: *family,
            rest,
        })
    }

    /// Whose connection it is, by the rest of the header; `None` for the load balancer's own, or one that it does not
    /// know the origin of.
    fn source(self, rest: &[u8]) -> Result<Option<SocketAddr>, Bad> {
        if self.local {
            return Ok(None);
        }
        match self.family {
            IPV4_STREAM => from::<4, Ipv4Addr>(rest).map(Some),
            IPV6_STREAM => from::<16, Ipv6Addr>(rest).map(Some),
            // Unspecified, or a socket of one machine: it has no address that would mean anything here.
            0x00 | 0x31 => Ok(None),
            _ => Err(Bad::Protocol),
        }
    }
}

/// The first of two addresses of so many bytes, and the first of the two ports behind them.
fn from<const BYTES: usize, A: From<[u8; BYTES]> + Into<IpAddr>>(rest: &[u8]) -> Result<SocketAddr, Bad> {
    let (address, rest) = rest.split_first_chunk::<BYTES>().ok_or(Bad::TooShort)?;
    let (_to, rest) = rest.split_first_chunk::<BYTES>().ok_or(Bad::TooShort)?;
    let (port, rest) = rest.split_first_chunk().ok_or(Bad::TooShort)?;
    let (_to, _more) = rest.split_first_chunk::<2>().ok_or(Bad::TooShort)?;
    let address: IpAddr = A::from(*address).into();
    Ok(SocketAddr::new(address, u16::from_be_bytes(*port)))
}

/// Reads a header, and not a byte beyond it: whose connection it is, or `None` where that is its peer's own.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let bad = |bad: Bad| io::Error::new(io::ErrorKind::InvalidData, bad);
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let head = Head::parse(&head).map_err(bad)?;
    let mut rest = vec![0; usize::from(head.rest)];
    stream.read_exact(&mut rest).await?;
    head.source(&rest).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    fn parse(bytes: &[u8]) -> Result<Option<SocketAddr>, Bad> {
        let (head, rest) = bytes.split_first_chunk().expect("a head");
        Head::parse(head)?.source(rest)
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0x1f, 0x90, 0, 80];

    #[test]
    fn addresses_are_read_and_what_is_behind_them_is_not() {
        let told = |bytes: &[u8]| parse(bytes).map(|told| told.map(|told| told.to_string()));
        let more = [&V4[..], &[4, 0, 1, 0]].concat();
        for rest in [&V4[..], &more] {
            assert_eq!(told(&header(0x21, 0x11, rest)), Ok(Some("192.0.2.1:8080".into())));
        }
        let mut v6 = [0; 36];
        (v6[0], v6[1], v6[15], v6[33]) = (0x20, 1, 7, 9);
        assert_eq!(told(&header(0x21, 0x21, &v6)), Ok(Some("[2001::7]:9".into())));
        // Its own, or nobody's that would mean anything.
        for (command, family, rest) in [
            (0x20, 0x11, &V4[..]),
            (0x20, 0, b""),
            (0x21, 0, b"abc"),
            (0x21, 0x31, &[0; 216]),
        ] {
            assert_eq!(told(&header(command, family, rest)), Ok(None));
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for (bytes, bad) in [
            (header(0x11, 0x11, &V4), Bad::Signature),
            (header(0x22, 0x11, &V4), Bad::Command),
            (header(0x21, 0x12, &V4), Bad::Protocol),
            (header(0x21, 0x41, &V4), Bad::Protocol),
            (header(0x21, 0x11, &V4[..11]), Bad::TooShort),
            (header(0x21, 0x21, &V4), Bad::TooShort),
            (header(0x21, 0x11, &[0; 4_097]), Bad::TooLong),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.1 8080 80\r\n".to_vec(),
                Bad::Signature,
            ),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), Bad::Signature),
        ] {
            assert_eq!(parse(&bytes), Err(bad), "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_stumble(mut bytes in proptest::collection::vec(any::<u8>(), 16..80), signed in any::<bool>()) {
            if signed {
                bytes[..12].copy_from_slice(&SIGNATURE);
            }
            let _ = parse(&bytes);
        }
    }
}
