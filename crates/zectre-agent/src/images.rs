//! The images that this agent has brought to the engine. Others may be there too; those are not ours to remove.

use crate::{core::collect::Item, record};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use zectre_common::time::Time;

/// An image that we pulled.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Pulled {
    bytes: u64,
    used_unix_ms: i64,
}

#[derive(Debug, Default)]
struct Index {
    pulled: BTreeMap<String, Pulled>,
    /// Who uses which image, pulled by us or not.
    holders: BTreeMap<String, u32>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    index: Mutex<Index>,
}

/// The node's images.
#[derive(Debug, Clone)]
pub(crate) struct Images(Arc<Shared>);

/// An image that stays on the engine while this is held.
#[derive(Debug)]
pub(crate) struct HeldImage {
    images: Images,
    name: String,
}

impl Images {
    /// Takes up the list kept at `path`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let pulled = record::read(path)?.unwrap_or_default();
        Ok(Self(Arc::new(Shared {
            path: path.into(),
            index: Mutex::new(Index {
                pulled,
                holders: BTreeMap::new(),
            }),
        })))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds an image, there or about to be pulled.
    pub(crate) fn hold(&self, name: &str) -> HeldImage {
        *self.index().holders.entry(name.into()).or_default() += 1;
        HeldImage {
            images: self.clone(),
            name: name.into(),
        }
    }

    /// We have pulled an image.
    pub(crate) fn pulled(&self, name: &str, bytes: u64) -> io::Result<()> {
        let mut index = self.index();
        index.pulled.insert(
            name.into(),
            Pulled {
                bytes,
                used_unix_ms: Time::now().unix_ms(),
            },
        );
        self.save(&index)
    }

    /// All that we have pulled.
    pub(crate) fn items(&self) -> Vec<Item> {
        let index = self.index();
        let items = index.pulled.iter().map(|(name, pulled)| Item {
            key: name.clone(),
            bytes: pulled.bytes,
            used: u64::try_from(pulled.used_unix_ms).unwrap_or(0),
            is_held: index.holders.contains_key(name),
        });
        items.collect()
    }

    /// Takes an image off the list, unless somebody holds it: whoever wants it from now on looks for it anew.
    pub(crate) fn release(&self, name: &str) -> io::Result<bool> {
        let mut index = self.index();
        if index.holders.contains_key(name) || index.pulled.remove(name).is_none() {
            return Ok(false);
        }
        self.save(&index).map(|()| true)
    }

    fn save(&self, index: &Index) -> io::Result<()> {
        record::write(&self.0.path, &index.pulled)
    }
}

impl HeldImage {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for HeldImage {
    fn drop(&mut self) {
        let mut index = self.images.index();
        if let Some(holders) = index.holders.get_mut(&self.name) {
            *holders -= 1;
            if *holders == 0 {
                index.holders.remove(&self.name);
            }
        }
        if let Some(pulled) = index.pulled.get_mut(&self.name) {
            pulled.used_unix_ms = Time::now().unix_ms();
            if let Err(error) = self.images.save(&index) {
                tracing::warn!(%error, "the list of images could not be kept");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_pulled_and_nobody_holds_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("images.json");
        let images = Images::open(&path).expect("opened");
        let held = images.hold("a:1");
        images.pulled("a:1", 10).expect("kept");
        images.pulled("b:1", 20).expect("kept");
        assert!(!images.release("a:1").expect("kept"), "held");
        assert!(!images.release("foreign:1").expect("kept"), "not ours");
        assert!(images.release("b:1").expect("kept"));
        drop(held);
        let again = Images::open(&path).expect("opened");
        let items = again.items();
        assert_eq!(items.len(), 1);
        assert_eq!((items[0].key.as_str(), items[0].is_held), ("a:1", false));
    }
}
