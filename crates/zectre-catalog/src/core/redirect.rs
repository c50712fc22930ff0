//! Where a code may be sent: to exactly what was registered, compared as text, so that no two parsers can disagree.
//!
//! Only a registered address of the loopback interface without a port stands for any port (RFC 8252, section 7.3): a
//! command line listens on whichever is free. `localhost` is not such an address: a resolver may lead it elsewhere.

use url::Url;

/// What the command line may ask for.
pub const CLI_REDIRECTS: [&str; 2] = ["http://127.0.0.1/callback", "http://[::1]/callback"];

const LOOPBACK: [&str; 2] = ["http://127.0.0.1", "http://[::1]"];

/// Whether `given` is `registered`, or its loopback address with a port.
pub fn matches(registered: &str, given: &str) -> bool {
    registered == given
        || LOOPBACK.iter().any(|origin| {
            let path = registered
                .strip_prefix(origin)
                .filter(|path| path.starts_with('/'));
            let rest = given.strip_prefix(origin).and_then(|rest| rest.strip_prefix(':'));
            match (path, rest) {
                (Some(path), Some(rest)) => rest.strip_suffix(path).is_some_and(is_port),
                _ => false,
            }
        })
}

fn is_port(text: &str) -> bool {
    let canonical = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    canonical && text.parse::<u16>().is_ok()
}

/// Whether an operator may register it: `https`, or `http` at a loopback address; plain ASCII without a fragment.
pub fn may_be_registered(uri: &str) -> bool {
    let Ok(url) = Url::parse(uri) else { return false };
    let secure = match url.scheme() {
        "https" => true,
        "http" => std::matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost")),
        _ => false,
    };
    let plain = uri.bytes().all(|byte| byte.is_ascii_graphic()) && !uri.contains('\\');
    secure && plain && url.fragment().is_none() && url.username().is_empty() && url.password().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_loopback_addresses_have_any_port() {
        let cli = "http://127.0.0.1/callback";
        for good in [
            "http://127.0.0.1/callback",
            "http://127.0.0.1:1/callback",
            "http://127.0.0.1:65535/callback",
        ] {
            assert!(matches(cli, good), "{good}");
        }
        assert!(matches("http://[::1]/callback", "http://[::1]:8080/callback"));
        for bad in [
            "",
            "http://127.0.0.1:/callback",
            "http://127.0.0.1:0/callback",
            "http://127.0.0.1:080/callback",
            "http://127.0.0.1:65536/callback",
            "http://127.0.0.1:+1/callback",
            "http://127.0.0.1:80/callback/",
            "http://127.0.0.1:80/callback?x=1",
            "http://127.0.0.1:80/callback#x",
            "http://127.0.0.1:80/x/callback",
            "http://127.0.0.1:80@evil.example/callback",
            "http://127.0.0.1:1.evil.example/callback",
            "http://127.0.0.1.evil.example:80/callback",
            "http://localhost:80/callback",
            "https://127.0.0.1:80/callback",
            "http://127.0.0.2:80/callback",
            "http://[::1]:80/callback",
            "HTTP://127.0.0.1:80/callback",
            "javascript:alert(1)",
        ] {
            assert!(!matches(cli, bad), "{bad}");
        }
    }

    #[test]
    fn everything_else_is_exact() {
        let app = "https://app.example/cb";
        assert!(matches(app, app));
        for bad in [
            "https://app.example/cb/",
            "https://app.example/CB",
            "https://app.example:443/cb",
            "https://app.example/cb?x",
        ] {
            assert!(!matches(app, bad), "{bad}");
        }
        // A port that an operator registered is that one.
        assert!(!matches("http://127.0.0.1:9000/cb", "http://127.0.0.1:9001/cb"));
    }

    #[test]
    fn operators_register_safe_ones() {
        assert!(may_be_registered("https://app.example/cb?tenant=1"));
        assert!(may_be_registered("http://localhost:3000/cb"));
        for bad in [
            "http://app.example/cb",
            "https://app.example/#x",
            "https://u:p@app.example/",
            "javascript:x",
            "https://a\\b/",
            "https://a/ b",
        ] {
            assert!(!may_be_registered(bad), "{bad}");
        }
    }

    proptest! {
        /// Whatever is let through is the loopback address for a browser too.
        #[test]
        fn what_matches_leads_to_the_loopback_interface(given in "http://(127\\.0\\.0\\.1|\\[::1\\])[:@./a-z0-9]{0,16}/callback") {
            if CLI_REDIRECTS.iter().any(|registered| matches(registered, &given)) {
                let url = Url::parse(&given).expect("it is one");
                let host = url.host_str();
                prop_assert!(std::matches!(host, Some("127.0.0.1" | "[::1]")));
                prop_assert_eq!(url.path(), "/callback");
                prop_assert!(url.username().is_empty());
            }
        }
    }
}
