//! Names that lead to deployments: subdomains, preview labels, and what a `Host` header asks for.

use crate::id::DeploymentId;

/// A DNS label holds at most 63 octets (RFC 1035, section 2.3.4).
pub const LABEL_LEN_MAX: usize = 63;

/// `{name}-{namespace}`, with every character that a host label can't hold turned into `-`.
pub fn subdomain(name: &str, namespace: &str) -> String {
    let label: String = format!("{name}-{namespace}")
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(LABEL_LEN_MAX)
        .collect();
    label.trim_matches('-').to_owned()
}

/// `{name}-{namespace}-{8 hex}`, at most 63 characters; unique because the hex comes from the random
/// part of the deployment's id (and the database refuses a second one).
pub fn preview_label(name: &str, namespace: &str, deployment: DeploymentId) -> String {
    let id = deployment.get().simple().to_string();
    let suffix = &id[id.len() - 8..];
    let mut stem = subdomain(name, namespace);
    stem.truncate(LABEL_LEN_MAX - suffix.len() - 1);
    format!("{}-{suffix}", stem.trim_end_matches('-'))
}

/// The host of a `Host` header or `:authority`: lower case, without port and trailing dot.
/// `None` when it isn't a host name we could ever route (an IPv6 literal, an empty or overlong name).
pub fn normalize_host(header: &str) -> Option<String> {
    let host = match header.rsplit_once(':') {
        Some((host, port)) if is_port(port) => host,
        Some(_) => return None,
        None => header,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_';
    if host.is_empty() || host.len() > 253 || !host.bytes().all(valid) {
        return None;
    }
    Some(host.to_ascii_lowercase())
}

/// Digits that a port can have, or none at all (RFC 3986, section 3.2.3).
fn is_port(digits: &str) -> bool {
    digits.is_empty() || (digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok())
}

/// The first label of `host` when the rest is exactly the platform domain.
pub fn platform_label<'h>(host: &'h str, platform_domain: &str) -> Option<&'h str> {
    let label = host.strip_suffix(platform_domain)?.strip_suffix('.')?;
    (!label.is_empty() && !label.contains('.')).then_some(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_are_compared_without_port_case_and_dot() {
        assert_eq!(
            normalize_host("Hello-Default.Zectre.localhost:47000").as_deref(),
            Some("hello-default.zectre.localhost")
        );
        assert_eq!(normalize_host("a.example.").as_deref(), Some("a.example"));
        assert_eq!(normalize_host("a.example:").as_deref(), Some("a.example"));
        assert_eq!(normalize_host("a.example:65535").as_deref(), Some("a.example"));
        for bad in [
            "",
            "[::1]:80",
            "a b",
            "a/b",
            "host:80x",
            "host:+80",
            "host:65536",
            "host:99999999999999999999999",
            "a\u{e9}.example",
        ] {
            assert_eq!(normalize_host(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_one_label_under_the_platform_domain_counts() {
        assert_eq!(
            platform_label("a.zectre.localhost", "zectre.localhost"),
            Some("a")
        );
        assert_eq!(platform_label("b.a.zectre.localhost", "zectre.localhost"), None);
        assert_eq!(platform_label("zectre.localhost", "zectre.localhost"), None);
        assert_eq!(platform_label("axzectre.localhost", "zectre.localhost"), None);
    }

    proptest! {
        #[test]
        fn labels_are_always_valid(name in ".{1,80}", namespace in "[a-z][a-z0-9.-]{0,60}") {
            let label = preview_label(&name, &namespace, DeploymentId::new());
            prop_assert!(label.len() <= LABEL_LEN_MAX);
            prop_assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert!(!label.starts_with('-') && !label.ends_with('-'));
        }
    }
}
