//! `/health` (alive) and `/ready` (can do its job, with reasons).

use futures_util::future::BoxFuture;
use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use zectre_common::wire::cluster::Readiness;

/// A check that takes longer counts as failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The checks of one service.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<Vec<(&'static str, Check)>>>);

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
        let check: Check = Arc::new(move || Box::pin(work()));
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((name, check));
    }

    /// Runs all checks at once.
    pub async fn readiness(&self) -> Readiness {
        let checks = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let runs = checks.into_iter().map(|(name, check)| async move {
            match tokio::time::timeout(CHECK_TIMEOUT, check()).await {
                Ok(Ok(())) => None,
                Ok(Err(reason)) => Some(format!("{name}: {reason}")),
                Err(_) => Some(format!("{name}: no answer within {} s", CHECK_TIMEOUT.as_secs())),
            }
        });
        let reasons: Vec<_> = futures_util::future::join_all(runs)
            .await
            .into_iter()
            .flatten()
            .collect();
        Readiness {
            ready: reasons.is_empty(),
            reasons,
        }
    }
}
