//! What the catalog counts beside its requests.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
};
use zectre_service::metrics::Registry;

/// What became of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// The browser was sent to GitHub.
    Begun,
    /// The client got a code.
    Granted,
    /// It was refused there, or the person may not have what was asked.
    Denied,
    /// It could not go on.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: Outcome,
}

/// Logins by what became of them.
#[derive(Debug, Clone)]
pub struct Logins(Family<Labels, Counter>);

impl Logins {
    /// Adds them to `registry`.
    pub fn new(registry: &Registry) -> Self {
        Self(registry.register(
            "catalog_logins",
            "Logins by what became of them",
            Family::default(),
        ))
    }

    /// Counts one.
    pub fn count(&self, outcome: Outcome) {
        self.0.get_or_create(&Labels { outcome }).inc();
    }
}
