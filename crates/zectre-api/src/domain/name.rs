//! What may be a custom domain. Pure.

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use zectre_common::routing::LABEL_LEN_MAX;

/// A name has at most 253 characters (RFC 1035, section 2.3.4), and that of its TXT record begins with `_zectre.`.
const NAME_LEN_MAX: usize = 245;

/// The name in its one form: lower case, A-labels, without a trailing dot.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub(crate) fn normalize(text: &str, platform_domain: &str) -> Result<String, String> {
    let text = text.trim();
    if text.contains("://") || text.contains('/') {
        return Err("a host name only: leave out `http://` and the path".into());
    }
    if text.starts_with('*') {
        return Err("a wildcard can't be a custom domain: add each name by itself".into());
    }
    if text.contains(':') || text.contains('[') {
        return Err("a host name only: no port, and no IP address".into());
    }
    let bare = text.strip_suffix('.').unwrap_or(text);
    let ascii = Uts46::new()
        .to_ascii(
            bare.as_bytes(),
            AsciiDenyList::STD3,
            Hyphens::CheckFirstLast,
            DnsLength::Verify,
        )
        .map_err(|_| format!("not a host name: labels of letters, digits and `-`, each at most {LABEL_LEN_MAX} characters, with dots between them"))?;
    let name = ascii.into_owned();
    if name.len() > NAME_LEN_MAX {
        return Err(format!("at most {NAME_LEN_MAX} characters"));
    }
    let Some((_, top)) = name.rsplit_once('.') else {
        return Err("a name with a dot, such as `shop.example.com`".into());
    };
    if top.bytes().all(|b| b.is_ascii_digit()) || top.starts_with("0x") {
        return Err("a host name, not an IP address".into());
    }
    let is_under = |domain: &str| name == domain || name.ends_with(&format!(".{domain}"));
    if is_under(platform_domain) {
        return Err(format!(
            "names under `{platform_domain}` are given out by the platform: choose a domain of your own"
        ));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zectre_common::routing::normalize_host;

    fn of(text: &str) -> Result<String, String> {
        normalize(text, "zectre.localhost")
    }

    #[test]
    fn a_name_has_one_form() {
        for text in ["Shop.Example.COM", "shop.example.com.", " shop.example.com "] {
            assert_eq!(of(text).as_deref(), Ok("shop.example.com"), "{text}");
        }
        assert_eq!(of("bücher.example").as_deref(), Ok("xn--bcher-kva.example"));
        assert_eq!(
            of("xn--bcher-kva.example").as_deref(),
            Ok("xn--bcher-kva.example")
        );
        assert_eq!(
            of("Bu\u{308}cher.example").as_deref(),
            Ok("xn--bcher-kva.example")
        );
        assert_eq!(of("r3---sn.example.com").as_deref(), Ok("r3---sn.example.com"));
        assert_eq!(of("shop。example。com").as_deref(), Ok("shop.example.com"));
    }

    #[test]
    fn what_is_no_domain_is_told_why() {
        for (text, why) in [
            ("", "not a host name"),
            (".", "not a host name"),
            ("http://shop.example.com", "leave out"),
            ("shop.example.com/cart", "leave out"),
            ("*.example.com", "wildcard"),
            ("shop.example.com:8080", "no port"),
            ("[2001:db8::1]", "no IP address"),
            ("192.0.2.1", "not an IP address"),
            ("1.2.3.0x7f", "not an IP address"),
            ("localhost", "with a dot"),
            ("a..example.com", "not a host name"),
            ("-a.example.com", "not a host name"),
            ("a-.example.com", "not a host name"),
            ("_zectre.example.com", "not a host name"),
            ("a b.example.com", "not a host name"),
            ("a\u{0}b.example.com", "not a host name"),
            ("xn--zzzzzzz99.example", "not a host name"),
            ("zectre.localhost", "given out by the platform"),
            ("hello-default.zectre.localhost", "given out by the platform"),
            ("a.b.Zectre.LOCALHOST.", "given out by the platform"),
        ] {
            let error = of(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(of(&format!("{}.example", "a".repeat(63))).is_ok());
        assert!(of(&format!("{}.example", "a".repeat(64))).is_err());
        let long = |len: usize| format!("{}com", "a.".repeat((len - 3) / 2));
        assert!(of(&long(245)).is_ok());
        assert!(of(&long(247)).expect_err("too long").contains("at most 245"));
    }

    #[test]
    fn one_that_only_ends_like_the_platform_domain_is_free() {
        assert_eq!(of("myzectre.localhost").as_deref(), Ok("myzectre.localhost"));
    }

    proptest::proptest! {
        /// What is stored is what a request's host is compared with, and stays as it is when it is read again.
        #[test]
        fn the_form_is_the_proxys(text in "[a-zA-Zäé0-9.-]{1,40}") {
            if let Ok(name) = of(&text) {
                proptest::prop_assert_eq!(normalize_host(&name), Some(name.clone()));
                proptest::prop_assert_eq!(of(&name), Ok(name));
            }
        }
    }
}
