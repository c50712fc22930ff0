//! What shows that a domain is its claimant's, and where it may be looked for. Pure.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};
use zectre_common::wire::domain::{DnsRecord, DomainPage, DomainVerification, PAGE_PREFIX, TXT_PREFIX};

/// The label before the domain in the name of its TXT record.
const TXT_LABEL: &str = "_zectre";
/// A pending claim is looked at again after so long, doubled with each look.
const RECHECK_FIRST: Duration = Duration::from_secs(5);
/// The longest such pause.
const RECHECK_MAX: Duration = Duration::from_secs(600);

/// The name of the TXT record of a domain.
pub(crate) fn record_name(domain: &str) -> String {
    format!("{TXT_LABEL}.{domain}")
}

/// The text of the TXT record of a claim.
pub(crate) fn record_value(token: &str) -> String {
    format!("{TXT_PREFIX}{token}")
}

/// The page of a claim.
pub(crate) fn page_url(domain: &str, port: u16, token: &str) -> String {
    match port {
        80 => format!("http://{domain}{PAGE_PREFIX}{token}"),
        port => format!("http://{domain}:{port}{PAGE_PREFIX}{token}"),
    }
}

/// What a claimant is told to set; `http_port` where pages count.
pub(crate) fn instructions(domain: &str, token: &str, http_port: Option<u16>) -> DomainVerification {
    DomainVerification {
        dns: DnsRecord {
            kind: "TXT".into(),
            name: record_name(domain),
            value: record_value(token),
        },
        http: http_port.map(|port| DomainPage {
            url: page_url(domain, port, token),
            text: token.into(),
        }),
    }
}

/// Whether one of the TXT records (each of the strings it is made of) is that of the claim.
pub(crate) fn record_holds<'r>(records: impl IntoIterator<Item = &'r [Box<[u8]>]>, token: &str) -> bool {
    let wanted = record_value(token);
    records
        .into_iter()
        .any(|strings| strings.concat().trim_ascii() == wanted.as_bytes())
}

/// Whether the page is that of the claim.
pub(crate) fn page_holds(page: &[u8], token: &str) -> bool {
    page.trim_ascii() == token.as_bytes()
}

/// How long after its `checks`th look a pending claim is looked at again.
pub(crate) fn recheck_after(checks: u32) -> Duration {
    RECHECK_FIRST
        .saturating_mul(2_u32.saturating_pow(checks.saturating_sub(1)))
        .min(RECHECK_MAX)
}

/// Whether an address is one of the public internet: nothing of this machine or of the networks it is in may be reached
/// by claiming a name that points there (IANA special-purpose address registries).
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_public_v4(v4),
            None => is_public_v6(v6),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(matches!(a, 0 | 10 | 127)
        || a >= 224
        || (a == 100 && (64..128).contains(&b))
        || (a == 169 && b == 254)
        || (a == 172 && (16..32).contains(&b))
        || (a == 192 && b == 168)
        || (a == 192 && b == 0 && matches!(c, 0 | 2))
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && matches!(b, 18 | 19))
        || (a == 198 && b == 51 && c == 100)
        || (a == 203 && b == 0 && c == 113))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    // 2000::/3 is what was given out so far; within it 2001::/23 (Teredo and other protocols), documentation, and 6to4,
    // which carries an IPv4 address.
    (0x2000..0x4000).contains(&a)
        && !(a == 0x2001 && (b < 0x200 || b == 0xdb8))
        && a != 0x2002
        && !(a == 0x3fff && b < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_claims_own_token_counts() {
        let record = |parts: &[&str]| {
            parts
                .iter()
                .map(|part| part.as_bytes().into())
                .collect::<Vec<Box<[u8]>>>()
        };
        let records = [
            record(&["v=spf1 -all"]),
            record(&["zectre-verification=other"]),
            record(&["zectre-verifi", "cation=abc "]),
        ];
        let holds = |token: &str| record_holds(records.iter().map(Vec::as_slice), token);
        assert!(holds("abc") && holds("other"));
        assert!(!holds("ab") && !holds("abcd") && !holds("ABC"));
        assert!(!record_holds([], "abc"));
        assert!(page_holds(b"abc\n", "abc"));
        assert!(!page_holds(b"<p>abc</p>", "abc") && !page_holds(b"", "abc"));
    }

    #[test]
    fn looks_become_rare_and_never_stop_by_overflow() {
        let secs = |checks| recheck_after(checks).as_secs();
        assert_eq!([secs(0), secs(1), secs(2), secs(3), secs(4)], [5, 5, 10, 20, 40]);
        assert_eq!([secs(8), secs(64), secs(u32::MAX)], [600, 600, 600]);
    }

    #[test]
    fn a_name_leads_nobody_into_this_machine_or_its_networks() {
        let public = |text: &str| is_public(text.parse().expect("an address"));
        for inside in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "100::1",
            "3fff:0fff::1",
        ] {
            assert!(!public(inside), "{inside}");
        }
        for outside in [
            "1.1.1.1",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2a00:1450::1",
        ] {
            assert!(public(outside), "{outside}");
        }
    }
}
