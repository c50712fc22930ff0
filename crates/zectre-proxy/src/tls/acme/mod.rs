//! Certificates by ACME (RFC 8555): one order per name in the whole cluster, whichever proxies come and go.
//!
//! [`plan`] decides when a name needs one, and is pure. A proxy takes an order by a lease in PostgreSQL, only at the
//! revision that it decided by; [`order`] carries it out, and [`challenge`] answers on every proxy.

pub mod challenge;
pub mod order;
pub mod plan;

use super::metrics::TlsMetrics;
use crate::store::acme::Orders;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures_util::{StreamExt, stream};
use instant_acme::{Account, ExternalAccountKey, NewAccount};
use order::{Failure, STOP_GRACE, within};
use plan::Decision;
use secrecy::{ExposeSecret, SecretString};
use std::{collections::BTreeSet, time::Duration};
use tokio::sync::Mutex;
use zectre_common::config::AcmeConfig;
use zectre_service::tasks::Shutdown;

/// Orders at once.
const ORDERS_MAX: usize = 4;
/// A name that came or fell due is seen within this time.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// For making the account.
const ACCOUNT_TIMEOUT: Duration = Duration::from_secs(20);

/// Orders certificates.
pub struct Acme {
    config: AcmeConfig,
    orders: Orders,
    metrics: TlsMetrics,
    /// Raw, for binding the account to one that is known to the server otherwise.
    binding: Option<Vec<u8>>,
    account: Mutex<Option<Account>>,
}

impl Acme {
    /// `None` when `eab_hmac` is not base64url.
    pub fn new(config: &AcmeConfig, orders: Orders, metrics: TlsMetrics) -> Option<Self> {
        let hmac = config.eab_hmac.expose_secret().trim_end_matches('=');
        let binding = if hmac.is_empty() {
            None
        } else {
            Some(BASE64_URL_SAFE_NO_PAD.decode(hmac).ok()?)
        };
        Some(Self {
            config: config.clone(),
            orders,
            metrics,
            binding,
            account: Mutex::default(),
        })
    }

    /// Orders what is due, until `shutdown`. Steps under way are cut off then, but for those that make something: what the
    /// server was asked for and nobody wrote down is lost, so these may take a little longer.
    pub async fn run(self, shutdown: Shutdown) {
        let mut failing = false;
        while !shutdown.is_requested() {
            match self.round(&shutdown).await {
                Ok(()) => failing = false,
                Err(error) if !std::mem::replace(&mut failing, true) => {
                    tracing::warn!(%error, "it can't be seen which certificates are due");
                }
                Err(_) => {}
            }
            shutdown.or_requested(tokio::time::sleep(LOOK_EVERY)).await;
        }
    }

    async fn round(&self, shutdown: &Shutdown) -> Result<(), Failure> {
        let mut names: BTreeSet<String> = self.config.names.iter().cloned().collect();
        names.extend(self.orders.wanted().await?);
        let names: Vec<_> = names.into_iter().collect();
        let (now, subjects) = self.orders.subjects(&names).await?;
        let ahead = i64::try_from(self.config.renew_ahead_secs).unwrap_or(i64::MAX);
        let due = subjects
            .into_iter()
            .filter(|subject| plan::decide(subject, now, ahead) == Decision::Order);
        stream::iter(due)
            .for_each_concurrent(ORDERS_MAX, |subject| async move {
                if shutdown.is_requested() {
                    return;
                }
                match self.orders.claim(&subject).await {
                    Ok(Some(held)) => self.work(held, shutdown).await,
                    // Another proxy was faster.
                    Ok(None) => {}
                    Err(error) => tracing::warn!(name = subject.name, %error, "an order could not be taken"),
                }
            })
            .await;
        Ok(())
    }

    /// The cluster's account, made when there is none.
    async fn account(&self, shutdown: &Shutdown) -> Result<Account, Failure> {
        let mut known = self.account.lock().await;
        if shutdown.is_requested() {
            return Err(Failure::Stopping);
        }
        if let Some(account) = &*known {
            return Ok(account.clone());
        }
        let account = within(ACCOUNT_TIMEOUT, STOP_GRACE, shutdown, self.find_account()).await?;
        Ok(known.insert(account).clone())
    }

    async fn find_account(&self) -> Result<Account, Failure> {
        let directory = &self.config.directory_url;
        let root = &self.config.root_ca_file;
        let builder = if root.as_os_str().is_empty() {
            Account::builder()?
        } else {
            Account::builder_with_root(root)?
        };
        let (transaction, stored) = self.orders.account(directory).await?;
        if let Some(stored) = stored {
            let credentials =
                serde_json::from_str(stored.expose_secret()).map_err(instant_acme::Error::from)?;
            return Ok(builder.from_credentials(credentials).await?);
        }
        let contact: Vec<_> = [&self.config.contact]
            .into_iter()
            .filter(|contact| !contact.is_empty())
            .map(|contact| format!("mailto:{contact}"))
            .collect();
        let contact: Vec<_> = contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let binding = self
            .binding
            .as_ref()
            .map(|hmac| ExternalAccountKey::new(self.config.eab_kid.clone(), hmac));
        let (account, credentials) = builder.create(&new, directory.clone(), binding.as_ref()).await?;
        let credentials = serde_json::to_string(&credentials).map_err(instant_acme::Error::from)?;
        self.orders
            .keep_account(
                transaction,
                directory,
                &named(&account),
                &SecretString::from(credentials),
            )
            .await?;
        tracing::info!(directory, "an account was made at the ACME server");
        Ok(account)
    }

    /// After a failure the account is read anew: another proxy may have made another one. When the server doesn't
    /// `know` it any more, nobody shall use it again.
    async fn forget_account(&self, known: bool) {
        let Some(account) = self.account.lock().await.take() else {
            return;
        };
        if known {
            return;
        }
        match self
            .orders
            .forget_account(&self.config.directory_url, &named(&account))
            .await
        {
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, "the lost account could not be forgotten"),
        }
    }
}

/// With its key: a server that lost its memory may give the same address to another account.
fn named(account: &Account) -> String {
    format!("{}#{}", account.id(), account.key_thumbprint())
}
