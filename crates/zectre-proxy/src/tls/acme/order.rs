//! One order, from its beginning or from where another proxy left it, to the certificate. After every step that the
//! server remembers, so do we: whoever goes on finds what was done.

use super::{Acme, plan};
use crate::{
    store::{
        acme::{Held, StoreError},
        certificates::Issued,
    },
    tls::{Certificate, Unusable},
};
use instant_acme::{
    Account, AuthorizationStatus, ChallengeStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus,
    Problem,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use secrecy::{ExposeSecret, SecretString};
use std::{
    future::Future,
    time::{Duration, Instant},
};
use tokio::time::timeout;
use zectre_common::config::Challenge;
use zectre_service::{key::random_bytes, tasks::Shutdown};

/// For one exchange with the server; well within the lease.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);
/// After a stop, for what would be lost otherwise; well within the time that a stop may take.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(3);
/// For the whole of it: a server that takes longer is asked again after a pause.
const ORDER_TIMEOUT: Duration = Duration::from_secs(180);
/// Between looks at what the server is doing: first and longest.
const LOOK_AFTER: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// An order that failed so many times in a row is given up for a new one, whatever the reason looks like.
const ATTEMPTS_MAX: u32 = 8;

/// Why an order came to nothing for now.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The exchange failed; what the server holds may be as good as before.
    #[error("the ACME server could not be asked: {0}")]
    Exchange(#[source] instant_acme::Error),
    /// No answer.
    #[error("the ACME server did not answer within {} s", STEP_TIMEOUT.as_secs())]
    Silent,
    /// It takes too long.
    #[error("the ACME server did not finish the order within {} s", ORDER_TIMEOUT.as_secs())]
    Slow,
    /// The server doesn't know us.
    #[error("the ACME server does not know the account; making a new one")]
    NoAccount,
    /// The server said no.
    #[error("the ACME server refused: {0}")]
    Refused(String),
    /// The key or the signing request.
    #[error("no request for the certificate could be made: {0}")]
    Request(#[from] rcgen::Error),
    /// What the server sent.
    #[error("the certificate that the ACME server sent can't be served: {0}")]
    Useless(#[from] Unusable),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This proxy stops.
    #[error("the proxy stops")]
    Stopping,
}

impl Failure {
    /// Whether the order itself is lost, so that the next try needs a new one.
    fn ends_order(&self) -> bool {
        matches!(self, Self::NoAccount | Self::Refused(_) | Self::Useless(_))
    }
}

impl From<instant_acme::Error> for Failure {
    fn from(error: instant_acme::Error) -> Self {
        match error {
            instant_acme::Error::Api(problem) => refused(&problem),
            error => Self::Exchange(error),
        }
    }
}

fn refused(problem: &Problem) -> Failure {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    let kind = kind.rsplit(':').next().unwrap_or_default();
    let busy = problem
        .status
        .is_some_and(|status| status >= 500 || status == 429);
    match kind {
        "accountDoesNotExist" => Failure::NoAccount,
        "badNonce" | "rateLimited" | "serverInternal" => {
            Failure::Exchange(instant_acme::Error::Api(problem.clone()))
        }
        _ if busy => Failure::Exchange(instant_acme::Error::Api(problem.clone())),
        _ => Failure::Refused(problem.to_string()),
    }
}

/// Within [`STEP_TIMEOUT`], and no longer than until this proxy stops: whoever goes on finds out how far the server is.
async fn step<T>(
    shutdown: &Shutdown,
    exchange: impl Future<Output = Result<T, instant_acme::Error>>,
) -> Result<T, Failure> {
    let exchange = async { Ok(exchange.await?) };
    within(STEP_TIMEOUT, Duration::ZERO, shutdown, exchange).await
}

/// Like [`step`], for what the server would keep and nobody else could find: it is given a little longer, and then lost.
async fn creating<T>(
    shutdown: &Shutdown,
    exchange: impl Future<Output = Result<T, instant_acme::Error>>,
) -> Result<T, Failure> {
    let exchange = async { Ok(exchange.await?) };
    within(STEP_TIMEOUT, STOP_GRACE, shutdown, exchange).await
}

/// Ends `work` after `limit`, and `grace` after the shutdown.
pub(super) async fn within<T>(
    limit: Duration,
    grace: Duration,
    shutdown: &Shutdown,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let stops = async {
        shutdown.requested().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        biased;
        done = timeout(limit, work) => done.unwrap_or(Err(Failure::Silent)),
        () = stops => Err(Failure::Stopping),
    }
}

impl Acme {
    /// Works on what this proxy holds, and leaves word of how it went.
    pub(super) async fn work(&self, held: Held, shutdown: &Shutdown) {
        let name = held.name.clone();
        let attempts = held.attempts + 1;
        let failure = match self.pursue(held, shutdown).await {
            Ok(()) => return,
            Err(failure) => failure,
        };
        let left = if let Failure::Stopping = failure {
            self.orders.release(&name).await
        } else {
            self.forget_account(!matches!(failure, Failure::NoAccount)).await;
            let dice = f64::from(u16::from_ne_bytes(random_bytes())) / f64::from(u16::MAX);
            let (initial, max) = (self.config.backoff_initial_secs, self.config.backoff_max_secs);
            let pause = Duration::from_secs_f64(plan::backoff_secs(attempts, initial, max, dice));
            let forget = failure.ends_order() || attempts.is_multiple_of(ATTEMPTS_MAX);
            tracing::warn!(
                name, attempts, error = %failure, again_in_secs = pause.as_secs(),
                "no certificate could be got"
            );
            self.metrics.order(false);
            self.orders.fail(&name, &failure.to_string(), pause, forget).await
        };
        if let Err(error) = left {
            tracing::warn!(name, %error, "an order's state could not be kept; its lease will run out");
        }
    }

    async fn pursue(&self, held: Held, shutdown: &Shutdown) -> Result<(), Failure> {
        let account = self.account(shutdown).await?;
        let (mut order, key) = self.begin(&account, &held, shutdown).await?;
        let (until, mut pause) = (Instant::now() + ORDER_TIMEOUT, LOOK_AFTER.0);
        let mut refused_once = false;
        let chain = loop {
            if shutdown.is_requested() {
                return Err(Failure::Stopping);
            }
            if Instant::now() > until {
                return Err(Failure::Slow);
            }
            self.orders.extend(&held.name).await?;
            match order.state().status {
                OrderStatus::Pending => self.answer(&mut order, &held.name, shutdown).await?,
                OrderStatus::Ready => {
                    match step(shutdown, order.finalize_csr(&signing_request(&held.name, &key)?)).await {
                        // Some servers have it at once.
                        Ok(()) => continue,
                        // Whoever held the order before may have asked, too: then it is no longer ready.
                        Err(Failure::Refused(_)) if !std::mem::replace(&mut refused_once, true) => {}
                        Err(failure) => return Err(failure),
                    }
                }
                OrderStatus::Processing => {}
                OrderStatus::Valid => {
                    if let Some(chain) = step(shutdown, order.certificate()).await? {
                        break chain;
                    }
                }
                OrderStatus::Invalid => return Err(Failure::Refused(why(&mut order, shutdown).await)),
            }
            shutdown.or_requested(tokio::time::sleep(pause)).await;
            pause = (pause * 2).min(LOOK_AFTER.1);
            step(shutdown, order.refresh()).await?;
        };
        let key = key.expose_secret();
        let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes())?;
        let issued = Issued {
            name: &held.name,
            chain: &chain,
            key,
            certificate: &certificate,
        };
        self.orders.finish(&issued).await?;
        self.metrics.order(true);
        tracing::info!(
            name = held.name,
            days_left = certificate.days_left().round(),
            "a certificate was got"
        );
        Ok(())
    }

    /// The order there is, or a new one that is remembered before anything else happens.
    async fn begin(
        &self,
        account: &Account,
        held: &Held,
        shutdown: &Shutdown,
    ) -> Result<(Order, SecretString), Failure> {
        if let Some((url, key)) = &held.begun {
            return Ok((step(shutdown, account.order(url.clone())).await?, key.clone()));
        }
        let key = KeyPair::generate()?.serialize_pem();
        // What came before may have used up most of the lease; who loses it while the server makes the order can't keep it.
        self.orders.extend(&held.name).await?;
        let identifiers = [Identifier::Dns(held.name.clone())];
        let order = creating(shutdown, account.new_order(&NewOrder::new(&identifiers))).await?;
        self.orders.keep(&held.name, order.url(), &key).await?;
        tracing::info!(name = held.name, "a certificate is ordered");
        Ok((order, key.into()))
    }

    /// Shows that the name is ours, where the server wants to see it.
    async fn answer(&self, order: &mut Order, name: &str, shutdown: &Shutdown) -> Result<(), Failure> {
        let kind = match self.config.challenge {
            Challenge::Http01 => ChallengeType::Http01,
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        };
        let mut authorizations = order.authorizations();
        while let Some(authorization) =
            step(shutdown, async { authorizations.next().await.transpose() }).await?
        {
            let mut authorization = authorization;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let Some(mut challenge) = authorization.challenge(kind.clone()) else {
                return Err(Failure::Refused(
                    "it does not offer the challenge of proxy.tls.acme.challenge for this name".into(),
                ));
            };
            if challenge.status != ChallengeStatus::Pending {
                continue;
            }
            let proof = challenge.key_authorization();
            self.orders.expect(name, &challenge.token, proof.as_str()).await?;
            match step(shutdown, challenge.set_ready()).await {
                // Whoever held the order before may have said so already, and it was looked at meanwhile. What came of
                // that is in the order.
                Err(Failure::Refused(said)) => tracing::debug!(name, said, "a challenge was begun before"),
                told => told?,
            }
        }
        Ok(())
    }
}

/// What the server found wrong with the name.
async fn why(order: &mut Order, shutdown: &Shutdown) -> String {
    let mut said = order.state().error.as_ref().map(ToString::to_string);
    let mut authorizations = order.authorizations();
    while let Ok(Some(authorization)) =
        step(shutdown, async { authorizations.next().await.transpose() }).await
    {
        for challenge in &authorization.challenges {
            if let Some(problem) = &challenge.error {
                said = Some(problem.to_string());
            }
        }
    }
    said.unwrap_or_else(|| "the order is invalid".into())
}

fn signing_request(name: &str, key: &SecretString) -> Result<Vec<u8>, rcgen::Error> {
    let key = KeyPair::from_pem(key.expose_secret())?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&key)?.der().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    /// Far longer than a test may take.
    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn a_stop_ends_every_step_and_lets_finish_what_would_be_lost() {
        let shutdown = Shutdown::new();
        shutdown.request();
        let ended = step(&shutdown, pending::<Result<(), _>>()).await;
        assert!(matches!(ended, Err(Failure::Stopping)));
        let soon = async {
            tokio::task::yield_now().await;
            Ok(7)
        };
        assert!(matches!(within(LONG, LONG, &shutdown, soon).await, Ok(7)));
        let never = within(
            LONG,
            Duration::from_millis(1),
            &shutdown,
            pending::<Result<(), _>>(),
        )
        .await;
        assert!(matches!(never, Err(Failure::Stopping)));
        let running = Shutdown::new();
        let silent = within(
            Duration::from_millis(1),
            LONG,
            &running,
            pending::<Result<(), _>>(),
        );
        assert!(matches!(silent.await, Err(Failure::Silent)));
    }
}
