//! What is on this machine.

use url::{Host, Url};

/// Whether `url` leads to this machine, by whatever scheme: its own name or a loopback address.
pub(crate) fn is_here(url: &str) -> bool {
    match Url::parse(url).as_ref().map(Url::host) {
        Ok(Some(Host::Domain(name))) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
        Ok(Some(Host::Ipv4(address))) => address.is_loopback(),
        Ok(Some(Host::Ipv6(address))) => address.to_canonical().is_loopback(),
        Ok(None) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_told_from_others() {
        for here in [
            "http://localhost:47080",
            "https://localhost",
            "https://LOCALHOST:8443/",
            "https://localhost.:8443",
            "http://zectre.localhost:47000",
            "http://127.0.0.1:1",
            "https://127.0.0.2",
            "http://[::1]:47080",
            "https://[::1]",
            "https://[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_here(here), "{here}");
        }
        for elsewhere in [
            "http://10.0.0.1:47080",
            "https://localhost.example.org",
            "http://127.0.0.1.example.org",
            "https://localhost@example.org",
            "http://zectre",
            "http://[2001:db8::1]",
            "no URL",
        ] {
            assert!(!is_here(elsewhere), "{elsewhere}");
        }
    }
}
