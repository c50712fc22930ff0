//! GitHub as the place where people sign in: the catalog is an OAuth client of it, with PKCE. Its token is asked three
//! questions and dropped; it is neither stored nor logged.

mod http;

use crate::{config::GithubConfig, core::pkce, error::Error, store::users::Profile};
use ::http::{HeaderMap, HeaderValue, Method, header};
use bytes::Bytes;
use http::{Answer, Http};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use std::time::Duration;
use url::form_urlencoded::Serializer;
use zectre_common::plain;

/// What is asked of a person at GitHub: the profile, the addresses, the organizations; nothing to change.
const SCOPES: &str = "read:user user:email read:org";
/// Organizations on a page, and how many pages are read.
const ORGS_PAGE: usize = 100;
const ORGS_PAGES_MAX: usize = 10;
/// The longest name that is kept.
const NAME_CHARS_MAX: usize = 200;

/// Speaks to it.
pub struct Github {
    http: Http,
    config: GithubConfig,
    secret: SecretString,
    callback: String,
}

/// What came of someone's visit there.
pub enum Visit {
    /// This is who it was.
    Known(Profile),
    /// GitHub doesn't take the code: it was used, or made for something else.
    BadCode,
    /// The account has no verified primary address.
    NoEmail,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: Option<SecretString>,
}

#[derive(Deserialize)]
struct User {
    id: i64,
    login: String,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Email {
    #[serde(rename = "email")]
    address: String,
    primary: bool,
    verified: bool,
}

#[derive(Deserialize)]
struct Membership {
    state: String,
    role: String,
    organization: Org,
}

#[derive(Deserialize)]
struct Org {
    id: i64,
}

/// Numbers of organizations.
#[derive(Default)]
struct Orgs {
    member: Vec<i64>,
    administers: Vec<i64>,
}

impl Github {
    /// As the configuration says; GitHub sends people back to `callback`.
    pub fn new(config: &GithubConfig, secret: SecretString, callback: String) -> Self {
        Self {
            http: Http::new(Duration::from_millis(config.timeout_ms)),
            config: config.clone(),
            secret,
            callback,
        }
    }

    /// The issuer of its accounts.
    pub fn issuer(&self) -> &str {
        &self.config.url
    }

    /// Where a browser is sent to sign in.
    pub fn authorize_url(&self, state: &str, verifier: &str) -> String {
        let query = Serializer::new(String::new())
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.config.client_id)
            .append_pair("redirect_uri", &self.callback)
            .append_pair("scope", SCOPES)
            .append_pair("state", state)
            .append_pair("code_challenge", &pkce::challenge(verifier))
            .append_pair("code_challenge_method", "S256")
            .finish();
        format!("{}/login/oauth/authorize?{query}", self.config.url)
    }

    /// Who came back with `code`.
    pub async fn visit(&self, code: &str, verifier: &str) -> Result<Visit, Error> {
        let Some(token) = self.exchange(code, verifier).await? else {
            return Ok(Visit::BadCode);
        };
        let user: User = self.ask("/user", &token).await?;
        let emails: Vec<Email> = self.ask("/user/emails?per_page=100", &token).await?;
        // Any other address may be someone else's.
        let Some(email) = emails.into_iter().find(|one| one.primary && one.verified) else {
            return Ok(Visit::NoEmail);
        };
        let name = user.name.as_deref().map(plain::seen).unwrap_or_default();
        let name = match name.trim() {
            "" => user.login.as_str(),
            name => name,
        };
        let orgs = self.orgs(&token).await?;
        Ok(Visit::Known(Profile {
            subject: user.id,
            org_ids: orgs.member,
            administers: orgs.administers,
            email: email.address,
            name: name.chars().take(NAME_CHARS_MAX).collect(),
            login: user.login,
        }))
    }

    async fn exchange(&self, code: &str, verifier: &str) -> Result<Option<SecretString>, Error> {
        let form = Serializer::new(String::new())
            .append_pair("grant_type", "authorization_code")
            .append_pair("client_id", &self.config.client_id)
            .append_pair("client_secret", self.secret.expose_secret())
            .append_pair("code", code)
            .append_pair("redirect_uri", &self.callback)
            .append_pair("code_verifier", verifier)
            .finish();
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let media = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, media);
        let url = format!("{}/login/oauth/access_token", self.config.url);
        let answer = self
            .http
            .call(Method::POST, &url, headers, Bytes::from(form))
            .await;
        let answer = answer.map_err(|why| Error::Github(format!("the exchange of a code: {why}")))?;
        if answer.status.is_server_error() {
            return Err(Error::Github(format!(
                "the exchange of a code: status {}",
                answer.status
            )));
        }
        // GitHub tells of a bad code with 200 and `error`; others with 400.
        let told: Option<TokenAnswer> = serde_json::from_slice(&answer.body).ok();
        Ok(told
            .and_then(|told| told.access_token)
            .filter(|_| answer.status.is_success()))
    }

    async fn orgs(&self, token: &SecretString) -> Result<Orgs, Error> {
        let mut found = Orgs::default();
        for page in 1..=ORGS_PAGES_MAX {
            let path = format!("/user/memberships/orgs?state=active&per_page={ORGS_PAGE}&page={page}");
            let page: Vec<Membership> = self.ask(&path, token).await?;
            let last = page.len() < ORGS_PAGE;
            // Who was invited and has not accepted is no member: anybody may invite anyone.
            for one in page.into_iter().filter(|one| one.state == "active") {
                found.member.push(one.organization.id);
                if one.role == "admin" {
                    found.administers.push(one.organization.id);
                }
            }
            if last {
                break;
            }
        }
        Ok(found)
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str, token: &SecretString) -> Result<T, Error> {
        let failed = |why: String| Error::Github(format!("GET {path}: {why}"));
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
            .map_err(|_| failed("its token can't be sent".into()))?;
        bearer.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, bearer);
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_static("application/vnd.github+json"),
        );
        headers.insert("x-github-api-version", HeaderValue::from_static("2022-11-28"));
        let url = format!("{}{path}", self.config.api_url);
        let answer = self.http.call(Method::GET, &url, headers, Bytes::new()).await;
        let Answer { status, body } = answer.map_err(failed)?;
        if !status.is_success() {
            return Err(failed(format!("status {status}")));
        }
        serde_json::from_slice(&body).map_err(|error| failed(format!("its answer makes no sense ({error})")))
    }
}
