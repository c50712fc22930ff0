//! What a cluster may be called, where its API may be, and who gets tokens for it.

use url::Url;

/// The longest name, audience and URL.
const NAME_CHARS_MAX: usize = 64;
const AUDIENCE_CHARS_MAX: usize = 200;
const URL_CHARS_MAX: usize = 500;

/// Lower-case letters, digits and `-`: names of clusters.
pub fn is_slug(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=NAME_CHARS_MAX).contains(&text.len())
        && text.bytes().all(good)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Visible ASCII without quotes and backslashes: it stands in tokens, configurations and URLs.
pub fn is_audience(text: &str) -> bool {
    (8..=AUDIENCE_CHARS_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'\'' | b'`'))
}

/// Whether a sign-in that was begun for one audience gives tokens for `wanted`: only when that is the same. A sign-in of the command
/// line at the catalog itself (`issuer`) stands for its person, who was asked, and gives them for clusters too.
pub fn gives(begun_for: &str, wanted: &str, issuer: &str, is_command_line: bool) -> bool {
    begun_for == wanted || (begun_for == issuer && is_command_line)
}

/// The base URL of an API, as it is kept: without a slash at its end.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn api_base_url(text: &str) -> Result<String, String> {
    if text.len() > URL_CHARS_MAX {
        return Err(format!("at most {URL_CHARS_MAX} characters"));
    }
    let url = Url::parse(text).map_err(|error| format!("not a URL ({error}): write it as https://host"))?;
    if !matches!(url.scheme(), "https" | "http") || !url.has_host() {
        return Err("begins with https:// (or http://) and a host".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("leave out the user and password: everybody in the organization sees it".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("ends with the path: others are appended to it".into());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_in_gives_what_it_was_begun_for() {
        let catalog = "https://id.example.com";
        for is_command_line in [true, false] {
            assert!(gives("acme-eu", "acme-eu", catalog, is_command_line));
            assert!(gives(catalog, catalog, catalog, is_command_line));
            assert!(!gives("acme-eu", "acme-us", catalog, is_command_line));
            assert!(!gives("acme-eu", catalog, catalog, is_command_line));
            assert_eq!(
                gives(catalog, "acme-eu", catalog, is_command_line),
                is_command_line
            );
        }
    }

    #[test]
    fn targets_are_plain() {
        assert!(
            is_slug("eu-1") && !is_slug("") && !is_slug("-a") && !is_slug("A") && !is_slug(&"a".repeat(65))
        );
        assert!(
            is_audience("https://api.example.com") && !is_audience("short") && !is_audience("with a space")
        );
        assert_eq!(
            api_base_url("HTTPS://Api.Example/").as_deref(),
            Ok("https://api.example")
        );
        for bad in [
            "api.example",
            "ftp://a",
            "http://u:p@a",
            "http://a/?q",
            "http://a/#f",
            "javascript:x",
        ] {
            assert!(api_base_url(bad).is_err(), "{bad}");
        }
    }
}
