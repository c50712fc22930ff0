//! `/health` (alive) and `/ready` (can do its job, with reasons).

use crate::ring::KeyRing;
use futures_util::future::BoxFuture;
use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use zectre_common::wire::cluster::Readiness;

/// A check that takes longer counts as failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// What is wrong with something, and whether the service can do its job in spite of it.
type Checks = Vec<(&'static str, bool, Check)>;
type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The checks of one service.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<Checks>>);

impl Health {
    /// No checks: ready as soon as it answers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check; its error is the reason shown.
    pub fn check<F, W>(&self, name: &'static str, work: W)
    where
        W: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.add(name, true, Arc::new(move || Box::pin(work())));
    }

    /// Adds something that is told when it is wrong, though the service stays ready.
    pub fn note<F, W>(&self, name: &'static str, work: W)
    where
        W: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.add(name, false, Arc::new(move || Box::pin(work())));
    }

    /// Tells when the file of the master keys can't be read. What is sealed with the keys that were read before opens still, so
    /// the service stays ready.
    pub fn note_keys(&self, ring: Option<KeyRing>) {
        if let Some(ring) = ring {
            self.note("master keys", move || std::future::ready(ring.check()));
        }
    }

    fn add(&self, name: &'static str, is_needed: bool, check: Check) {
        let mut checks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        checks.push((name, is_needed, check));
    }

    /// Runs all checks at once.
    pub async fn readiness(&self) -> Readiness {
        let checks = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let runs = checks.into_iter().map(|(name, is_needed, check)| async move {
            let reason = match tokio::time::timeout(CHECK_TIMEOUT, check()).await {
                Ok(Ok(())) => return None,
                Ok(Err(reason)) => format!("{name}: {reason}"),
                Err(_) => format!("{name}: no answer within {} s", CHECK_TIMEOUT.as_secs()),
            };
            Some((is_needed, reason))
        });
        let wrong: Vec<(bool, String)> = futures_util::future::join_all(runs)
            .await
            .into_iter()
            .flatten()
            .collect();
        Readiness {
            ready: !wrong.iter().any(|(is_needed, _)| *is_needed),
            reasons: wrong.into_iter().map(|(_, reason)| reason).collect(),
        }
    }
}
