//! Who this node is: its id and key, got once with a join token and kept since.

use crate::{error::Error, record};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tokio::sync::watch;
use zectre_common::{id::NodeId, wire::scheduler::RegisterResponse};
use zectre_service::{key::NodeKey, token};

/// The file in the data directory.
const FILE: &str = "node.json";

/// What the file holds. The key is a secret: the file is for its owner only.
#[derive(Serialize, Deserialize)]
struct Kept {
    node_id: NodeId,
    credential: String,
}

/// The node's id and key.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Its id.
    pub node_id: NodeId,
    /// Signs what it says, and what the scheduler says to it.
    pub key: NodeKey,
}

impl Identity {
    /// A token with which this node's agent calls the service `audience`.
    pub(crate) fn token(&self, audience: &str) -> String {
        token::mint_node(&self.key, self.node_id, token::name::AGENT, audience)
    }
}

/// The identity, for everyone who needs it; absent until the first registration.
#[derive(Debug, Clone)]
pub(crate) struct IdentityWatch(watch::Receiver<Option<Identity>>);

impl IdentityWatch {
    /// The identity, if there is one yet.
    pub(crate) fn current(&self) -> Option<Identity> {
        self.0.borrow().clone()
    }

    /// Waits for the first registration.
    pub(crate) async fn registered(&self) -> Identity {
        let mut changes = self.0.clone();
        let found = changes
            .wait_for(Option::is_some)
            .await
            .map(|identity| identity.clone());
        match found {
            Ok(Some(identity)) => identity,
            // The agent is shutting down: nobody will register any more, and whoever waits is about to be dropped.
            _ => std::future::pending().await,
        }
    }
}

/// Keeps the identity.
#[derive(Debug)]
pub(crate) struct Identities {
    path: PathBuf,
    current: watch::Sender<Option<Identity>>,
}

impl Identities {
    /// Takes up what is kept in the data directory.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, Error> {
        let path = data_dir.join(FILE);
        let kept: Option<Kept> = record::read(&path).map_err(|source| Error::DataDir {
            path: path.clone(),
            source,
        })?;
        let identity = kept.and_then(|kept| {
            Some(Identity {
                node_id: kept.node_id,
                key: NodeKey::from_hex(&kept.credential)?,
            })
        });
        Ok(Self {
            path,
            current: watch::Sender::new(identity),
        })
    }

    /// For everyone who needs it.
    pub(crate) fn watch(&self) -> IdentityWatch {
        IdentityWatch(self.current.subscribe())
    }

    /// The identity, if there is one yet.
    pub(crate) fn current(&self) -> Option<Identity> {
        self.current.borrow().clone()
    }

    /// Keeps what the scheduler gave; `false` when it makes no sense.
    pub(crate) fn keep(&self, response: &RegisterResponse) -> Result<bool, Error> {
        let Some(key) = NodeKey::from_hex(&response.credential) else {
            return Ok(false);
        };
        let identity = Identity {
            node_id: response.node_id,
            key,
        };
        let unchanged = self.current().is_some_and(|held| {
            held.node_id == identity.node_id && held.key.expose() == identity.key.expose()
        });
        if !unchanged {
            // Durably: the join token is spent.
            let kept = Kept {
                node_id: response.node_id,
                credential: response.credential.clone(),
            };
            record::write_durably(&self.path, &kept).map_err(|source| Error::DataDir {
                path: self.path.clone(),
                source,
            })?;
            self.current.send_replace(Some(identity));
        }
        Ok(true)
    }
}
