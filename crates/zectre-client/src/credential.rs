//! How the caller proves who it is.

use secrecy::{ExposeSecret, SecretString};

/// Sent with every call; never shown.
#[derive(Debug, Clone, Default)]
pub enum Credential {
    /// None: only public endpoints answer.
    #[default]
    None,
    /// An API key (`zk_…`), sent as `X-API-Key`.
    ApiKey(SecretString),
    /// A login token, sent as `Authorization: Bearer`.
    Token(SecretString),
}

impl Credential {
    pub(crate) fn apply(&self, request: reqwest_tls::RequestBuilder) -> reqwest_tls::RequestBuilder {
        match self {
            Self::None => request,
            Self::ApiKey(key) => request.header("x-api-key", key.expose_secret()),
            Self::Token(token) => request.bearer_auth(token.expose_secret()),
        }
    }
}
