//! Visitors who come back to the same task (`networking.affinity: cookie`). A cookie names it by a mark that says nothing
//! without the platform's key, and is the same at every proxy. Where that task is gone, any other one takes the
//! visitor, and the cookie is replaced.

use crate::live::Replica;
use http::{HeaderMap, HeaderValue, header};
use zectre_service::key::{ServiceKey, affinity_mark};

/// The cookie's name.
const COOKIE: &str = "zectre_affinity";

/// Makes marks.
#[derive(Debug)]
pub struct Marks(ServiceKey);

impl Marks {
    /// With the key that all proxies have.
    pub fn new(key: ServiceKey) -> Self {
        Self(key)
    }

    /// What stands for `replica`.
    pub(super) fn of<'r>(&self, replica: &'r Replica) -> &'r str {
        replica.mark(|task| affinity_mark(&self.0, task))
    }
}

/// The cookie that leads back to the task with this mark; over TLS only, where it is given so.
pub(super) fn cookie(mark: &str, secure: bool) -> HeaderValue {
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={mark}; Path=/; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::try_from(cookie).expect("hexadecimal digits and plain words")
}

/// The mark that a visitor brings.
pub(super) fn brought(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_found_among_other_cookies() {
        let brought = |value: &'static str| {
            let headers = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_static(value))]);
            brought(&headers).map(str::to_owned)
        };
        assert_eq!(brought("a=b; zectre_affinity=12ab; c=d").as_deref(), Some("12ab"));
        assert_eq!(brought("zectre_affinity=").as_deref(), Some(""));
        assert_eq!(brought("xzectre_affinity=1; zectre_affinity2=3"), None);
    }
}
