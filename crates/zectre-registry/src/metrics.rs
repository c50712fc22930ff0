//! What the registry counts beside its requests.

use prometheus_client::metrics::counter::Counter;
use zectre_service::metrics::Registry;

/// Bytes in and out.
#[derive(Debug, Clone)]
pub struct Transfers {
    /// Taken from clients, refused uploads included.
    pub received: Counter,
    /// Promised to clients: a download that breaks off counts whole.
    pub sent: Counter,
}

impl Transfers {
    /// Adds them to `registry`.
    pub fn new(registry: &Registry) -> Self {
        Self {
            received: registry.register("registry_received_bytes", "Bytes of uploads", Counter::default()),
            sent: registry.register("registry_sent_bytes", "Bytes of downloads", Counter::default()),
        }
    }
}
