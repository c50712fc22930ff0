//! E-mail addresses, as far as their form goes.

use zectre_common::plain::is_plain;

/// No address is longer (RFC 5321, section 4.5.3.1.3).
pub(crate) const EMAIL_BYTES_MAX: usize = 254;

/// Whether it may be one; only a letter to it would tell.
pub(crate) fn is_plausible(email: &str) -> bool {
    email.len() <= EMAIL_BYTES_MAX
        && is_plain(email)
        && !email.contains(char::is_whitespace)
        && email.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && !domain.contains('@')
                && domain.split('.').count() > 1
                && !domain.split('.').any(str::is_empty)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_can_not_be_are_refused() {
        for good in ["a@b.c", "admin@zectre.localhost", "x+y@mail.example.org"] {
            assert!(is_plausible(good), "{good}");
        }
        for bad in [
            "",
            "a",
            "a@b",
            "@b.c",
            "a@.c",
            "a@b..c",
            "a b@c.d",
            "a@b@c.d",
            "a@b.c\n",
            "\u{202e}a@b.c",
            "a\u{2800}@b.c",
            "a@b.c\u{fe0f}",
            "a\u{e0041}@b.c",
        ] {
            assert!(!is_plausible(bad), "{bad}");
        }
    }
}
