//! What every command that talks to the platform needs: the API, the caller, and a way to talk.

use crate::{args::Global, credentials::Credentials, error::CliError, output::Output};
use secrecy::SecretString;
use zectre_client::{Client, Credential};

/// The API unless something names another one.
const API_URL_DEFAULT: &str = "http://localhost:47080";
/// A key that goes before the stored sign-ins.
pub(crate) const API_KEY_VARIABLE: &str = "ZECTRE_API_KEY";

/// A command's surroundings.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) output: Output,
    pub(crate) client: Client,
    /// Whether a credential was found.
    pub(crate) signed_in: bool,
}

impl Context {
    /// The API from the option or the variable, else the one signed in to last; the key from the variable,
    /// else the stored sign-in of that API.
    pub(crate) fn new(global: &Global, output: Output) -> Result<Self, CliError> {
        let stored = Credentials::load()?;
        let url = api_url(global, &stored);
        // What is no text is no key either, and must not be passed over in favour of another sign-in.
        let key = std::env::var_os(API_KEY_VARIABLE).unwrap_or_default();
        let credential = match key.to_string_lossy() {
            key if !key.trim().is_empty() => Credential::ApiKey(key_in(&key)?),
            _ => stored
                .apis
                .get(&url)
                .map_or(Credential::None, crate::credentials::SignIn::credential),
        };
        let signed_in = !matches!(credential, Credential::None);
        Ok(Self {
            output,
            client: Client::new(&url, credential)?,
            signed_in,
        })
    }

    /// The API's URL: the name of the cluster for links and sign-ins.
    pub(crate) fn api_url(&self) -> &str {
        self.client.base_url()
    }
}

/// A key as it came in a variable: secrets of CI systems often end in a line break.
fn key_in(text: &str) -> Result<SecretString, CliError> {
    let key = text.trim();
    if key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(SecretString::from(key));
    }
    Err(CliError::Refused(format!(
        "{API_KEY_VARIABLE} holds no key: there is a blank, a line break or a letter beyond ASCII in it. A key begins with \
         `zk_`; `zectre tokens create NAME` makes one."
    )))
}

/// The API that this run talks to.
pub(crate) fn api_url(global: &Global, stored: &Credentials) -> String {
    let named = global.api_url.as_deref().filter(|url| !url.is_empty());
    let url = named.or(stored.default.as_deref()).unwrap_or(API_URL_DEFAULT);
    trimmed(url).to_owned()
}

/// An API's URL as it is kept: without a slash at its end.
pub(crate) fn trimmed(url: &str) -> &str {
    url.trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn a_key_may_end_in_a_line_break_and_holds_none() {
        let key = key_in("zk_12ab\n").expect("a key");
        assert_eq!(key.expose_secret(), "zk_12ab");
        for bad in ["zk_1\n2", "zk_1 2", "zk_é", "zk_\u{fffd}"] {
            let error = key_in(bad).expect_err("no key");
            assert_eq!(error.exit_code(), 3);
            assert!(!error.to_string().contains(bad), "{error}");
        }
    }
}
