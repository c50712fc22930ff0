//! Parameters of OAuth: bounded, and each at most once (RFC 6749, section 3.1), so that nobody reads another one than we do.

use http::{HeaderMap, header};
use std::collections::BTreeMap;
use url::form_urlencoded;

/// The most parameters, and the longest value.
const PARAMETERS_MAX: usize = 32;
const VALUE_BYTES_MAX: usize = 2_048;

/// Parameters by name.
#[derive(Debug)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// From a query or a form.
    ///
    /// # Errors
    /// A sentence that says what is wrong with them.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if all.len() == PARAMETERS_MAX || value.len() > VALUE_BYTES_MAX || value.contains('\0') {
                return Err("there are too many parameters, or one is too long".into());
            }
            if all.contains_key(&*name) {
                let shown: String = name.chars().take(64).collect();
                return Err(format!("`{shown}` is given more than once"));
            }
            all.insert(name.into_owned(), value.into_owned());
        }
        Ok(Self(all))
    }

    /// One of them; an empty one counts as not given.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

/// The form in a body.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub(super) fn read(headers: &HeaderMap, body: &str) -> Result<Parameters, &'static str> {
    let media = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = media.and_then(|media| media.split(';').next()).map(str::trim);
    if essence != Some("application/x-www-form-urlencoded") {
        return Err("send the parameters as application/x-www-form-urlencoded");
    }
    Parameters::parse(body).map_err(|_| "a parameter is given twice, or too long")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_given_once() {
        let good = Parameters::parse("a=1&b=%20x&c=").expect("good");
        assert_eq!(
            (good.get("a"), good.get("b"), good.get("c")),
            (Some("1"), Some(" x"), None)
        );
        assert!(Parameters::parse("a=1&a=1").is_err());
        assert!(Parameters::parse(&format!("a={}", "x".repeat(VALUE_BYTES_MAX + 1))).is_err());
    }
}
