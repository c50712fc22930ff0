//! The images that this agent has brought to the engine. Others may be there too; those are not ours to remove.
//!
//! An image has many spellings (`nginx`, `docker.io/library/nginx:latest`); here it is one image, whatever it was
//! called.

use crate::{core::collect::Item, record};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use tokio::sync::{Mutex as Turns, OwnedMutexGuard};
use zectre_common::time::Time;
use zectre_container::canonical;

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
    /// Of images that are being looked for, pulled or removed.
    turns: BTreeMap<String, Weak<Turns<()>>>,
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
    key: String,
}

impl Images {
    /// Takes up the list kept at `path`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let kept: BTreeMap<String, Pulled> = record::read(path)?.unwrap_or_default();
        let pulled = kept.into_iter().map(|(name, pulled)| (canonical(&name), pulled));
        Ok(Self(Arc::new(Shared {
            path: path.into(),
            index: Mutex::new(Index {
                pulled: pulled.collect(),
                ..Index::default()
            }),
        })))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds an image, there or about to be pulled.
    pub(crate) fn hold(&self, name: &str) -> HeldImage {
        let key = canonical(name);
        *self.index().holders.entry(key.clone()).or_default() += 1;
        HeldImage {
            images: self.clone(),
            name: name.into(),
            key,
        }
    }

    /// We have pulled an image.
    pub(crate) fn pulled(&self, name: &str, bytes: u64) -> io::Result<()> {
        let mut index = self.index();
        index.pulled.insert(
            canonical(name),
            Pulled {
                bytes,
                used_unix_ms: Time::now().unix_ms(),
            },
        );
        self.save(&index)
    }

    /// All that we have pulled, by their canonical names.
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

    /// Waits until nobody else looks for, pulls or removes this image. Between the look and the pull, or between
    /// the decision and the removal, it must not come or go.
    pub(crate) async fn turn(&self, name: &str) -> OwnedMutexGuard<()> {
        self.turns(name).lock_owned().await
    }

    /// Carries out `remove`, which says whether the image is gone, for one that nobody holds; `None` when it is held, being
    /// pulled, or not ours. Only what is gone leaves the list: the rest still takes room, and is tried again after all others.
    pub(crate) async fn remove<E>(
        &self,
        name: &str,
        remove: impl AsyncFnOnce() -> Result<bool, E>,
    ) -> io::Result<Option<Result<bool, E>>> {
        // Whoever has the turn wants it: there is nothing to wait for.
        let Ok(_turn) = self.turns(name).try_lock_owned() else {
            return Ok(None);
        };
        let key = canonical(name);
        if !self.is_free(&key) {
            return Ok(None);
        }
        let removed = remove().await;
        let mut index = self.index();
        if matches!(removed, Ok(true)) {
            index.pulled.remove(&key);
        } else if let Some(pulled) = index.pulled.get_mut(&key) {
            pulled.used_unix_ms = Time::now().unix_ms();
        }
        self.save(&index).map(|()| Some(removed))
    }

    fn turns(&self, name: &str) -> Arc<Turns<()>> {
        let mut index = self.index();
        index.turns.retain(|_, turns| turns.strong_count() > 0);
        let turns = index.turns.entry(canonical(name)).or_default();
        turns.upgrade().unwrap_or_else(|| {
            let fresh = Arc::default();
            *turns = Arc::downgrade(&fresh);
            fresh
        })
    }

    /// Whether it is ours and nobody holds it.
    fn is_free(&self, key: &str) -> bool {
        let index = self.index();
        index.pulled.contains_key(key) && !index.holders.contains_key(key)
    }

    fn save(&self, index: &Index) -> io::Result<()> {
        record::write(&self.0.path, &index.pulled)
    }
}

impl HeldImage {
    /// Its name, as it was asked for.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for HeldImage {
    fn drop(&mut self) {
        let mut index = self.images.index();
        if let Some(holders) = index.holders.get_mut(&self.key) {
            *holders -= 1;
            if *holders == 0 {
                index.holders.remove(&self.key);
            }
        }
        if let Some(pulled) = index.pulled.get_mut(&self.key) {
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
    use futures_util::future::{BoxFuture, FutureExt, join_all};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn open(dir: &tempfile::TempDir) -> Images {
        Images::open(&dir.path().join("images.json")).expect("opened")
    }

    #[tokio::test]
    async fn only_what_we_pulled_and_nobody_holds_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let images = open(&dir);
        let held = images.hold("a:1");
        images.pulled("a:1", 10).expect("kept");
        images.pulled("b:1", 20).expect("kept");
        let remove = async |name| {
            let removed = images.remove(name, async || Ok::<_, ()>(true)).await;
            removed.expect("kept").is_some()
        };
        assert!(!remove("a:1").await, "held");
        assert!(!remove("docker.io/library/a:1").await, "held, by another name");
        assert!(!remove("foreign:1").await, "not ours");
        let turn = images.turn("b:1").await;
        assert!(!remove("b:1").await, "somebody is about to use it");
        drop(turn);
        assert!(remove("library/b:1").await);
        drop(held);
        let items = open(&dir).items();
        assert_eq!(items.len(), 1);
        assert_eq!(
            (items[0].key.as_str(), items[0].is_held),
            ("docker.io/library/a:1", false)
        );
    }

    /// What the engine keeps takes room: who forgot it would never remove it.
    #[tokio::test]
    async fn what_the_engine_could_not_remove_is_tried_again_after_the_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let images = open(&dir);
        for name in ["a:1", "b:1"] {
            images.pulled(name, 10).expect("kept");
            images
                .index()
                .pulled
                .values_mut()
                .for_each(|pulled| pulled.used_unix_ms -= 1_000);
        }
        for answer in [Err("it is busy"), Ok(false)] {
            let given = images.remove("a:1", async || answer).await.expect("kept");
            assert_eq!(given, Some(answer));
            for items in [images.items(), open(&dir).items()] {
                let used: Vec<_> = items.iter().map(|item| (item.key.as_str(), item.used)).collect();
                let [("docker.io/library/a:1", a), ("docker.io/library/b:1", b)] = used[..] else {
                    panic!("both are still there: {used:?}");
                };
                assert!(a > b, "the other one's turn comes first");
            }
        }
        images
            .remove("a:1", async || Ok::<_, ()>(true))
            .await
            .expect("kept");
        assert_eq!(open(&dir).items().len(), 1);
    }

    /// What happens to images at the same time, with pauses between its steps.
    #[derive(Debug, Clone)]
    enum Step {
        /// A start: look, pull, make the container, run.
        Start {
            name: &'static str,
            pauses: [u8; 5],
        },
        Remove {
            name: &'static str,
            pauses: [u8; 2],
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        let name = || prop::sample::select(vec!["a", "a:latest", "docker.io/library/a", "b:1", "r.test/b:1"]);
        prop_oneof![
            (name(), any::<[u8; 5]>()).prop_map(|(name, pauses)| Step::Start { name, pauses }),
            (name(), any::<[u8; 2]>()).prop_map(|(name, pauses)| Step::Remove { name, pauses }),
        ]
    }

    async fn pause(turns: u8) {
        for _ in 0..turns % 8 {
            tokio::task::yield_now().await;
        }
    }

    /// Whether the image was there whenever a container was made of it, or ran.
    async fn carry_out(images: Images, engine: Arc<Mutex<BTreeSet<String>>>, step: Step) -> bool {
        let on_engine = || engine.lock().expect("not poisoned");
        match step {
            Step::Start { name, pauses } => {
                pause(pauses[0]).await;
                let _held = images.hold(name);
                {
                    let _turn = images.turn(name).await;
                    let is_there = on_engine().contains(&canonical(name));
                    pause(pauses[1]).await;
                    if !is_there {
                        pause(pauses[2]).await;
                        on_engine().insert(canonical(name));
                        images.pulled(name, 1).expect("kept");
                    }
                }
                pause(pauses[3]).await;
                let made = on_engine().contains(&canonical(name));
                pause(pauses[4]).await;
                made && on_engine().contains(&canonical(name))
            }
            Step::Remove { name, pauses } => {
                pause(pauses[0]).await;
                let remove = async || {
                    pause(pauses[1]).await;
                    on_engine().remove(&canonical(name));
                    Ok::<_, ()>(true)
                };
                images.remove(name, remove).await.expect("kept");
                true
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        /// Starts and removals overlap in every way, under every name.
        #[test]
        fn an_image_never_goes_under_a_start(steps in proptest::collection::vec(step(), 1..24)) {
            let dir = tempfile::tempdir().expect("a directory");
            let images = open(&dir);
            let engine: Arc<Mutex<BTreeSet<String>>> = Arc::default();
            for name in ["a", "b:1"] {
                engine.lock().expect("not poisoned").insert(canonical(name));
                images.pulled(name, 1).expect("kept");
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let all: Vec<BoxFuture<'_, bool>> = steps
                .into_iter()
                .map(|step| carry_out(images.clone(), Arc::clone(&engine), step).boxed())
                .collect();
            prop_assert!(runtime.block_on(join_all(all)).into_iter().all(|held| held));
        }
    }
}
