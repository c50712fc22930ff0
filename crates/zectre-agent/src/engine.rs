//! The container engine of this node: there, not there yet, or away for a while.
//!
//! The agent starts without it. It is asked again and again; what is told to the scheduler follows.

use std::{collections::HashMap, time::Duration};
use tokio::sync::watch;
use zectre_common::config::{AgentConfig, RegistryLogin};
use zectre_container::{Engine, Error, Login, registry_of};
use zectre_service::tasks::Shutdown;

/// How often an engine that is there is asked whether it still is.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// How often one that isn't there is asked for: a task may wait for it.
const MISS_INTERVAL: Duration = Duration::from_secs(1);

/// The engine, as far as it is there.
#[derive(Debug)]
pub(crate) struct EngineWatch {
    /// `None` when this node runs no containers.
    socket: Option<String>,
    owner: String,
    logins: HashMap<String, Login>,
    current: watch::Sender<Option<Engine>>,
}

impl EngineWatch {
    /// Looks once. An engine that isn't there is no error: it may come.
    pub(crate) async fn new(config: &AgentConfig, owner: &str) -> std::io::Result<Self> {
        let logins = config.registries.iter().map(login);
        let watch = Self {
            socket: config.container_enabled.then(|| config.container_socket.clone()),
            owner: owner.into(),
            logins: logins.collect::<std::io::Result<_>>()?,
            current: watch::Sender::new(None),
        };
        if let Err(error) = watch.ask().await {
            tracing::warn!(%error, "containers are not run until the engine answers");
        }
        Ok(watch)
    }

    /// Whether this node is meant to run containers.
    pub(crate) const fn is_enabled(&self) -> bool {
        self.socket.is_some()
    }

    /// The engine, if it is there.
    pub(crate) fn current(&self) -> Option<Engine> {
        self.current.borrow().clone()
    }

    /// Waits until the engine is there.
    pub(crate) async fn there(&self) -> Engine {
        let mut changes = self.current.subscribe();
        match changes.wait_for(Option::is_some).await.map(|there| there.clone()) {
            Ok(Some(engine)) => engine,
            // The sender is ours, so it lives as long as this.
            _ => std::future::pending().await,
        }
    }

    /// Hears of every coming and going.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Engine>> {
        self.current.subscribe()
    }

    /// What the registry of an image wants to see.
    pub(crate) fn login(&self, image: &str) -> Option<&Login> {
        self.logins.get(registry_of(image))
    }

    /// Keeps asking until `stop`.
    pub(crate) async fn watch(&self, stop: Shutdown) {
        if !self.is_enabled() {
            stop.requested().await;
            return;
        }
        loop {
            let is_there = self.current.borrow().is_some();
            let pause = if is_there { ASK_INTERVAL } else { MISS_INTERVAL };
            if stop.or_requested(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            match self.ask().await {
                Ok(true) => tracing::info!("the container engine is there"),
                Ok(false) => {}
                Err(error) if is_there => tracing::warn!(%error, "the container engine is gone"),
                Err(error) => tracing::debug!(%error, "still no container engine"),
            }
        }
    }

    /// Whether the engine has come since the last time.
    async fn ask(&self) -> Result<bool, Error> {
        let Some(socket) = &self.socket else {
            return Ok(false);
        };
        let asked = match self.current() {
            Some(engine) => engine.ping().await.map(|()| engine),
            None => connect(socket, &self.owner).await,
        };
        match asked {
            Ok(engine) => Ok(self.current.send_if_modified(|current| {
                let comes = current.is_none();
                *current = Some(engine);
                comes
            })),
            Err(error) => {
                self.current.send_if_modified(|current| current.take().is_some());
                Err(error)
            }
        }
    }
}

async fn connect(socket: &str, owner: &str) -> Result<Engine, Error> {
    let engine = Engine::connect(socket, owner)?;
    engine.ping().await?;
    Ok(engine)
}

fn login(configured: &RegistryLogin) -> std::io::Result<(String, Login)> {
    let password = if configured.password_file.as_os_str().is_empty() {
        configured.password.clone()
    } else {
        let text = std::fs::read_to_string(&configured.password_file)?;
        text.trim_end_matches(['\r', '\n']).into()
    };
    let login = Login {
        username: configured.username.clone(),
        password,
    };
    Ok((configured.host.clone(), login))
}
