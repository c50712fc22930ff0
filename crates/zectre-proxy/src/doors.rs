//! Where clients come in: the listeners, and how connections on them end.

use crate::{
    Error,
    handover::{Role, Sources},
    ingress::{
        self, Ingress,
        accept::{Entrance, Kind},
        connection::Bounds,
    },
    raw::{
        self,
        ports::{Listeners, Ports},
    },
    tls,
    workers::Workers,
};
use futures_util::{FutureExt, future::BoxFuture};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_util::task::TaskTracker;
use zectre_common::config::ProxyConfig;
use zectre_service::{
    open_files,
    tasks::{Shutdown, Tasks},
};

/// What is open when the proxy starts.
pub(crate) struct Open {
    pub(crate) plain: TcpListener,
    pub(crate) secure: Option<Secure>,
    /// Those for plain TCP, as the table wants them.
    pub(crate) ports: Arc<Ports>,
    /// Those that the process was given, by the one before it or by whoever started it.
    pub(crate) inherited: BTreeMap<u16, raw::ports::Inherited>,
}

/// The listener for TLS.
pub(crate) struct Secure {
    pub(crate) setup: tls::Setup,
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
    #[cfg(feature = "http3")]
    pub(crate) http3: Option<ingress::http3::door::Door>,
}

impl Secure {
    pub(crate) async fn open(
        setup: Option<tls::Setup>,
        config: &ProxyConfig,
        sources: &mut Sources,
    ) -> Result<Option<Self>, Error> {
        let Some(setup) = setup else { return Ok(None) };
        let listener = sources.listener(Role::Tls, &config.host, config.tls.port).await?;
        Ok(Some(Self {
            #[cfg(feature = "http3")]
            http3: ingress::http3::door::Door::open(config, &setup, sources.old.is_some())?,
            setup,
            address: listener.local_addr().map_err(Error::Address)?,
            listener,
        }))
    }
}

/// The listeners, and what they share.
pub(crate) struct Doors {
    pub(crate) ingress: Arc<Ingress>,
    pub(crate) workers: Workers,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) bounds: Bounds,
    pub(crate) shutdown: Shutdown,
}

impl Doors {
    /// Takes connections on all of them until the shutdown.
    pub(crate) async fn serve(&self, open: Open, config: &ProxyConfig, tasks: &Tasks, wires: &TaskTracker) {
        let Open {
            plain,
            secure,
            ports,
            inherited,
        } = open;
        let raw = self.raw(config, ports, inherited);
        tokio::join!(
            self.http(plain, secure, config, tasks, wires),
            raw.run(&self.ingress.tables, self.shutdown.clone())
        );
    }

    async fn http(
        &self,
        plain: TcpListener,
        secure: Option<Secure>,
        config: &ProxyConfig,
        tasks: &Tasks,
        wires: &TaskTracker,
    ) {
        let plain = Entrance {
            listener: Arc::new(plain),
            kind: Kind::Plain,
            proxy_protocol: config.proxy_protocol,
        };
        let Some(secure) = secure else {
            return self.take(plain, self.shutdown.clone()).await;
        };
        tracing::info!(address = %secure.address, "and over TLS");
        #[cfg(feature = "http3")]
        let http3 = self.http3().run(secure.http3, wires);
        #[cfg(not(feature = "http3"))]
        let http3 = std::future::ready(());
        let terminator = Arc::clone(&secure.setup.terminator);
        secure.setup.spawn(tasks, wires, &self.shutdown);
        let secure = Entrance {
            listener: Arc::new(secure.listener),
            kind: Kind::Tls(terminator),
            proxy_protocol: config.tls.proxy_protocol,
        };
        tokio::join!(
            self.take(plain, self.shutdown.clone()),
            self.take(secure, self.shutdown.clone()),
            http3
        );
    }

    #[cfg(feature = "http3")]
    fn http3(&self) -> ingress::http3::door::Hall {
        ingress::http3::door::Hall {
            ingress: Arc::clone(&self.ingress),
            workers: self.workers.clone(),
            slots: Arc::clone(&self.slots),
            bounds: self.bounds,
            shutdown: self.shutdown.clone(),
        }
    }

    /// What listens for applications that speak plain TCP.
    fn raw<'d>(
        &'d self,
        config: &ProxyConfig,
        ports: Arc<Ports>,
        inherited: BTreeMap<u16, raw::ports::Inherited>,
    ) -> Listeners<impl Fn(u16, Arc<TcpListener>, Shutdown) -> BoxFuture<'d, ()>> {
        let idle = Duration::from_millis(config.tcp_idle_timeout_ms);
        let proxy_protocol = config.tcp_proxy_protocol;
        let serve = move |port, listener, stop| {
            let entrance = Entrance {
                listener,
                kind: Kind::Raw(port, idle),
                proxy_protocol,
            };
            self.take(entrance, stop).boxed()
        };
        Listeners {
            host: config.host.clone(),
            max: raw::listeners_max(open_files::max()),
            ports,
            metrics: self.ingress.metrics.raw.clone(),
            inherited,
            told: BTreeSet::new(),
            serve,
        }
    }

    async fn take(&self, entrance: Entrance, shutdown: Shutdown) {
        let (ingress, slots) = (Arc::clone(&self.ingress), Arc::clone(&self.slots));
        let workers = self.workers.clone();
        ingress::accept::run(ingress, workers, entrance, slots, self.bounds, shutdown).await;
    }
}

/// Waits for connections and tunnels to end, then ends them and what served them.
pub(crate) async fn drain(ingress: &Ingress, wires: &TaskTracker, drain_timeout: Duration) {
    ingress.connections.close();
    if timeout(drain_timeout, ingress.connections.wait()).await.is_err() {
        tracing::warn!(
            in_flight = ingress.metrics.in_flight.get(),
            "requests were cut off: they did not finish in time"
        );
    }
    ingress.cut.cancel();
    ingress.connections.wait().await;
    wires.close();
    wires.wait().await;
}
