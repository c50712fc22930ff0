//! Signing in at a catalog: the token side. Its API is spoken to with [`Client`], like a cluster's.

use crate::{Client, ClientError, Credential};
use http::{Method, StatusCode, header};
use serde::Deserialize;
use url::form_urlencoded::Serializer;
use zectre_common::wire::{
    catalog::{TokenRefusal, Tokens},
    problem::Problem,
};

/// A code that a browser brought, and what proves who began the login; nothing prints them.
pub struct CodeGrant<'g> {
    /// The client that began it.
    pub client_id: &'g str,
    /// Where the code was sent.
    pub redirect_uri: &'g str,
    /// The code.
    pub code: &'g str,
    /// The verifier of its challenge (RFC 7636).
    pub code_verifier: &'g str,
}

/// The token side of one catalog.
#[derive(Debug, Clone)]
pub struct CatalogTokens(Client);

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
}

impl CatalogTokens {
    /// Of the catalog at `url`. Nothing is sent yet.
    ///
    /// # Errors
    /// `url` is neither an http nor an https URL.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        Client::new(url, Credential::None).map(Self)
    }

    /// What it calls itself; it must be the URL it is reached at.
    pub async fn issuer(&self) -> Result<String, ClientError> {
        let request = self.0.at_root(Method::GET, "/.well-known/openid-configuration");
        let response = self.0.send(request, crate::transport::CALL_TIMEOUT).await?;
        self.0
            .read::<Metadata>(response)
            .await
            .map(|metadata| metadata.issuer)
    }

    /// Exchanges a code. Tokens are for the catalog itself.
    pub async fn exchange(&self, grant: &CodeGrant<'_>) -> Result<Tokens, ClientError> {
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", grant.client_id),
            ("redirect_uri", grant.redirect_uri),
            ("code", grant.code),
            ("code_verifier", grant.code_verifier),
        ];
        self.tokens(&form).await
    }

    /// Exchanges a refresh token, for the catalog itself or the `audience` of a cluster. The old one is spent, whatever
    /// becomes of the answer.
    pub async fn refresh(
        &self,
        client_id: &str,
        refresh_token: &str,
        audience: Option<&str>,
    ) -> Result<Tokens, ClientError> {
        let mut form = vec![
            ("grant_type", "refresh_token"),
            ("client_id", client_id),
            ("refresh_token", refresh_token),
        ];
        form.extend(audience.map(|audience| ("audience", audience)));
        self.tokens(&form).await
    }

    /// Ends a sign-in.
    pub async fn revoke(&self, refresh_token: &str) -> Result<(), ClientError> {
        let request = self.form("/oauth/revoke", &[("token", refresh_token)]);
        self.0
            .send(request, crate::transport::CALL_TIMEOUT)
            .await
            .map(drop)
    }

    async fn tokens(&self, form: &[(&str, &str)]) -> Result<Tokens, ClientError> {
        let request = self.form("/oauth/token", form);
        let (status, body) = self.0.send_raw(request).await?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.nonsense(&error.to_string()));
        }
        if let Ok(problem) = serde_json::from_slice::<Problem>(&body) {
            return Err(ClientError::Problem(Box::new(problem)));
        }
        match serde_json::from_slice::<TokenRefusal>(&body) {
            Ok(refusal) => Err(ClientError::Problem(Box::new(as_problem(&refusal)))),
            Err(_) => Err(self.nonsense(&format!("status {status} without a reason"))),
        }
    }

    fn form(&self, path: &str, form: &[(&str, &str)]) -> reqwest_tls::RequestBuilder {
        let body = Serializer::new(String::new()).extend_pairs(form).finish();
        let media = "application/x-www-form-urlencoded";
        let request = self.0.at_root(Method::POST, path);
        request.header(header::CONTENT_TYPE, media).body(body)
    }

    fn nonsense(&self, what: &str) -> ClientError {
        ClientError::Protocol {
            url: self.0.base_url().to_owned(),
            what: what.to_owned(),
        }
    }
}

/// The refusal in the form that every other one has: `invalid_grant` is `INVALID_GRANT`.
fn as_problem(refusal: &TokenRefusal) -> Problem {
    let status = match refusal.error.as_str() {
        "invalid_grant" => StatusCode::UNAUTHORIZED,
        "invalid_target" => StatusCode::FORBIDDEN,
        _ => StatusCode::BAD_REQUEST,
    };
    Problem::new(status, refusal.error.to_uppercase(), &refusal.error_description)
}
