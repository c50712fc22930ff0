//! What every handler may use.

use crate::{
    attempts::Attempts, catalog::Catalog, domain::look::Looker, fanout::Fanout, outside::post::Poster,
    scheduler::Asked, store::rows::Lists, streams::Streams, urls::Urls,
};
use sqlx::PgPool;
use std::{ops::Deref, sync::Arc, time::Duration};
use tokio::sync::{Notify, Semaphore};
use zectre_common::{config::Signup, wire::quota::Amounts};
use zectre_service::{
    call::Caller,
    key::{ServiceKey, TokenKey},
    ring::KeyRing,
    tasks::Shutdown,
};

/// Shared by all requests.
#[derive(Clone)]
pub(crate) struct Context(Arc<Inner>);

/// The parts.
pub(crate) struct Inner {
    pub(crate) pool: PgPool,
    /// For pages of lists.
    pub(crate) lists: Lists,
    pub(crate) service_key: ServiceKey,
    pub(crate) token_key: TokenKey,
    pub(crate) master_key: KeyRing,
    pub(crate) caller: Caller,
    pub(crate) urls: Urls,
    pub(crate) scheduler: Asked,
    pub(crate) settings: Settings,
    pub(crate) attempts: Attempts,
    /// The catalog that is trusted, where one is.
    pub(crate) catalog: Option<Catalog>,
    pub(crate) fanout: Fanout,
    /// Looks for what shows whose a custom domain is.
    pub(crate) domains: Looker,
    /// Told when a domain was claimed.
    pub(crate) claimed: Notify,
    /// Calls webhooks.
    pub(crate) poster: Poster,
    /// Told when a delivery is to be sent again.
    pub(crate) redelivered: Notify,
    /// Places of open streams.
    pub(crate) streams: Streams,
    /// One permit a call of a forge whose signature is looked at.
    pub(crate) inbound_checks: Arc<Semaphore>,
    /// Ends streams when the service stops.
    pub(crate) shutdown: Shutdown,
}

/// What the configuration says.
pub(crate) struct Settings {
    pub(crate) signup: Signup,
    /// Of an organization without its own; 0 is no limit.
    pub(crate) quotas: Amounts,
    /// Organizations that one person may make; 0 is no limit.
    pub(crate) orgs_per_user_max: u32,
    /// Namespaces of one organization; 0 is no limit.
    pub(crate) namespaces_per_org_max: u32,
    pub(crate) token_ttl: Duration,
    /// How long roles of a catalog count after it was last heard of them; zero: for ever.
    pub(crate) catalog_roles_ttl: Duration,
    pub(crate) request_timeout: Duration,
    /// How often a stream asks again whether its caller may have it.
    pub(crate) stream_recheck: Duration,
    pub(crate) body_bytes_max: usize,
    pub(crate) wake_timeout: Duration,
    pub(crate) max_runtime_secs_cap: u32,
    pub(crate) source_bytes_max: u64,
    pub(crate) artifact_bytes_max: u64,
    pub(crate) domain_pending_ttl_secs: u64,
    /// What repositories' URLs begin with.
    pub(crate) git_sources: Vec<String>,
    /// How long steps of metrics are kept, the finest first.
    pub(crate) metrics_keep: [Duration; 3],
}

impl Context {
    /// Wraps the parts.
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }
}

impl Deref for Context {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}
