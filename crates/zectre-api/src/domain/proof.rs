//! What shows that a domain is its claimant's, and where it may be looked for. Pure.

use std::time::Duration;
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
}
