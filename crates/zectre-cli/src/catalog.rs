//! Sign-ins at catalogs: one refresh token each, from which every cluster's tokens come.
//!
//! A refresh token holds once. So it is exchanged under a lock, and the next one is on disk before anything is done with
//! the answer.

use crate::{
    args::Global,
    context::{API_KEY_VARIABLE, api_url, trimmed},
    credentials::{CatalogOrigin, CatalogSession, Credentials, SignIn},
    error::CliError,
};
use secrecy::SecretString;
use zectre_client::{CatalogTokens, Client, ClientError, Credential};
use zectre_common::{
    time::Time,
    wire::catalog::{Cluster, Tokens},
};

/// The client id that every catalog knows the command line by.
pub(crate) const CLIENT_ID: &str = "zectre-cli";

/// A sign-in at one catalog.
pub(crate) struct Catalog {
    pub(crate) url: String,
}

impl Catalog {
    /// The one that is named, else the one signed in to last.
    pub(crate) fn named(url: Option<&str>) -> Result<Self, CliError> {
        let named = url.filter(|url| !url.is_empty()).map(str::to_owned);
        let url = match named {
            Some(url) => Some(url),
            None => Credentials::load()?.catalog,
        };
        let url = url.ok_or_else(|| {
            CliError::Usage("you are signed in at no catalog: run `zectre login --catalog URL`.".into())
        })?;
        Ok(Self {
            url: trimmed(&url).to_owned(),
        })
    }

    /// Remembers a new sign-in.
    pub(crate) fn remember(&self, tokens: &Tokens, email: &str) -> Result<(), CliError> {
        let session = CatalogSession {
            refresh_token: tokens.refresh_token.clone(),
            email: email.into(),
        };
        Credentials::change(|all| {
            all.catalog = Some(self.url.clone());
            all.catalogs.insert(self.url.clone(), session);
        })
    }

    /// Speaks to the catalog's API.
    pub(crate) async fn client(&self) -> Result<Client, CliError> {
        let tokens = self.tokens(None).await?;
        let token = Credential::Token(SecretString::from(tokens.access_token));
        Ok(Client::new(&self.url, token)?)
    }

    /// Tokens for a cluster's audience, or for the catalog itself.
    async fn tokens(&self, audience: Option<&str>) -> Result<Tokens, CliError> {
        // Others who wait for it do so in processes of their own.
        let lock = tokio::task::spawn_blocking(Credentials::lock_catalogs);
        let _lock = lock.await.map_err(std::io::Error::other)??;
        let session = Credentials::load()?.catalogs.remove(&self.url);
        let session = session.ok_or_else(|| self.ended())?;
        let refreshed = CatalogTokens::new(&self.url)?
            .refresh(CLIENT_ID, &session.refresh_token, audience)
            .await;
        let tokens = refreshed.map_err(|error| match error.code() {
            Some("INVALID_GRANT") => self.ended(),
            _ => error.into(),
        })?;
        Credentials::change(|all| {
            if let Some(session) = all.catalogs.get_mut(&self.url) {
                session.refresh_token.clone_from(&tokens.refresh_token);
            }
        })?;
        Ok(tokens)
    }

    fn ended(&self) -> CliError {
        CliError::Refused(format!(
            "you are not signed in at {} (any more). Run `zectre login --catalog {}`.",
            self.url, self.url
        ))
    }

    /// Makes `cluster` the one that commands talk to.
    pub(crate) async fn use_cluster(&self, cluster: &Cluster) -> Result<(), CliError> {
        // An address that this command can't speak to is told before anything is changed.
        Client::new(&cluster.api_base_url, Credential::None)?;
        let origin = CatalogOrigin {
            url: self.url.clone(),
            audience: cluster.audience.clone(),
            cluster: format!("{}/{}", cluster.organization, cluster.name),
            renew_at_ms: 0,
        };
        let email = Credentials::load()?
            .catalogs
            .remove(&self.url)
            .map(|session| session.email);
        let tokens = self.tokens(Some(&cluster.audience)).await?;
        let mut sign_in = SignIn {
            email,
            ..SignIn::default()
        };
        fill(&mut sign_in, origin, &tokens);
        Credentials::remember(&cluster.api_base_url, sign_in)
    }

    /// Ends the sign-in and forgets it, with those of all clusters that came of it; false when there was none.
    pub(crate) async fn sign_out(&self) -> Result<(bool, Option<ClientError>), CliError> {
        let session = Credentials::load()?.catalogs.remove(&self.url);
        let ended = match &session {
            Some(session) => {
                CatalogTokens::new(&self.url)?
                    .revoke(&session.refresh_token)
                    .await
            }
            None => Ok(()),
        };
        Credentials::change(|all| {
            all.catalogs.remove(&self.url);
            let ours = |sign_in: &SignIn| {
                sign_in
                    .catalog
                    .as_ref()
                    .is_some_and(|origin| origin.url == self.url)
            };
            all.apis.retain(|_, sign_in| !ours(sign_in));
            all.default = all.default.take().filter(|url| all.apis.contains_key(url));
            all.catalog = all.catalog.take().filter(|url| *url != self.url);
        })?;
        Ok((session.is_some(), ended.err()))
    }
}

fn fill(sign_in: &mut SignIn, mut origin: CatalogOrigin, tokens: &Tokens) {
    // A third of its life: a command that runs for long has the rest.
    let third_ms = i64::try_from(tokens.expires_in)
        .unwrap_or(0)
        .saturating_mul(1_000)
        / 3;
    origin.renew_at_ms = Time::now().unix_ms().saturating_add(third_ms);
    sign_in.token = Some(tokens.access_token.clone());
    sign_in.catalog = Some(origin);
}

/// Gets another token for the API that this run talks to, where its sign-in is a catalog's and it is time.
pub(crate) async fn freshen(global: &Global) -> Result<(), CliError> {
    if std::env::var_os(API_KEY_VARIABLE).is_some_and(|key| !key.is_empty()) {
        return Ok(());
    }
    let mut stored = Credentials::load()?;
    let url = api_url(global, &stored);
    let Some(origin) = stored.apis.remove(&url).and_then(|sign_in| sign_in.catalog) else {
        return Ok(());
    };
    if Time::now().unix_ms() < origin.renew_at_ms {
        return Ok(());
    }
    let catalog = Catalog {
        url: origin.url.clone(),
    };
    let tokens = match catalog.tokens(Some(&origin.audience)).await {
        Ok(tokens) => tokens,
        // The one that is there may hold for a while yet; if not, the API says so.
        Err(CliError::Client(ClientError::Unreachable { .. } | ClientError::TimedOut { .. })) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    Credentials::change(|all| {
        if let Some(sign_in) = all.apis.get_mut(&url) {
            fill(sign_in, origin, &tokens);
        }
    })
}
