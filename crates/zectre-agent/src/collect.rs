//! Keeps artifacts and images within their bounds: now and then, and at once when the disk is full.
//!
//! Before anything goes, the scheduler is asked what the cluster still needs. Without its answer nothing goes.

use crate::{
    core::collect::{Item, candidates, choose, goal},
    host::Host,
    link::Link,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};
use zectre_common::wire::scheduler::{NEEDED_MAX, NeededRequest};
use zectre_container::{SPELLINGS_MAX, canonical, spellings};
use zectre_service::tasks::Shutdown;

/// Requests that wait for the round under way; more than these needn't be told apart.
const REQUESTS_MAX: usize = 64;
/// How long somebody whose disk is full waits for a round.
const ROUND_TIMEOUT: Duration = Duration::from_secs(30);

/// Asks for a round.
#[derive(Debug, Clone)]
pub(crate) struct Collector(mpsc::Sender<Request>);

/// What a round is for.
#[derive(Debug)]
enum Request {
    /// Something was added.
    Look,
    /// The disk is full; told when the round is over.
    Full(oneshot::Sender<()>),
}

/// The rounds that were asked for.
#[derive(Debug)]
pub(crate) struct Requests(mpsc::Receiver<Request>);

impl Collector {
    /// Nobody collects yet: see [`run`].
    pub(crate) fn new() -> (Self, Requests) {
        let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
        (Self(sender), Requests(receiver))
    }

    /// Something was added.
    pub(crate) fn look(&self) {
        // A full queue means that a look is coming.
        let _ = self.0.try_send(Request::Look);
    }

    /// The disk is full: waits until what can go has gone.
    pub(crate) async fn make_room(&self) {
        let (done, wait) = oneshot::channel();
        let round = async {
            if self.0.send(Request::Full(done)).await.is_ok() {
                let _ = wait.await;
            }
        };
        let _ = tokio::time::timeout(ROUND_TIMEOUT, round).await;
    }
}

/// Collects until `stop`.
pub(crate) async fn run(host: Arc<Host>, link: Arc<Link>, mut requests: Requests, stop: Shutdown) {
    let interval = Duration::from_millis(host.config.collect_interval_ms.max(100));
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let rounds = async {
        loop {
            let mut waiting = Vec::new();
            let mut disk_is_full = tokio::select! {
                _ = ticks.tick() => false,
                request = requests.0.recv() => match request {
                    Some(Request::Full(done)) => { waiting.push(done); true }
                    Some(Request::Look) => false,
                    None => return,
                },
            };
            while let Ok(request) = requests.0.try_recv() {
                if let Request::Full(done) = request {
                    disk_is_full = true;
                    waiting.push(done);
                }
            }
            round(&host, &link, disk_is_full || is_nearly_full(&host)).await;
            for done in waiting {
                // It may have given up.
                let _ = done.send(());
            }
        }
    };
    stop.or_requested(rounds).await;
}

fn is_nearly_full(host: &Host) -> bool {
    match rustix::fs::statvfs(&host.tasks_dir) {
        Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize) < host.config.disk_free_bytes_min,
        Err(error) => {
            tracing::warn!(%error, "the room on the disk can't be read");
            false
        }
    }
}

async fn round(host: &Host, link: &Link, disk_is_full: bool) {
    let (artifacts, images) = (host.cache.items(), host.images.items());
    let artifacts_goal = goal(&artifacts, host.config.artifact_cache_bytes_max, disk_is_full);
    let images_goal = goal(&images, host.config.image_cache_bytes_max, disk_is_full);
    let asked = |items: &[Item], goal: Option<u64>, most: usize| -> BTreeSet<String> {
        let wanted = candidates(items).into_iter().filter(|_| goal.is_some());
        wanted.take(most).map(str::to_owned).collect()
    };
    let artifact_keys = asked(&artifacts, artifacts_goal, NEEDED_MAX);
    let image_keys = asked(&images, images_goal, NEEDED_MAX / SPELLINGS_MAX);
    if artifact_keys.is_empty() && image_keys.is_empty() {
        return;
    }
    let Some(identity) = link.identities.current() else {
        return;
    };
    let request = NeededRequest {
        node_id: identity.node_id,
        artifacts: artifact_keys
            .iter()
            .map(|key| sha256_of(key).to_owned())
            .collect(),
        // Deployments name an image as their authors did.
        images: image_keys.iter().flat_map(|key| spellings(key)).collect(),
    };
    let needed = match link.needed(&identity, &request).await {
        Ok(needed) => needed,
        Err(error) => {
            tracing::warn!(%error, "nothing is collected: the scheduler doesn't say what is still needed");
            return;
        }
    };
    if let Some(goal) = artifacts_goal {
        let hashes: BTreeSet<String> = needed.artifacts.into_iter().collect();
        let needed = artifact_keys
            .iter()
            .filter(|key| hashes.contains(sha256_of(key)))
            .cloned()
            .collect();
        let items = answered_for(host.cache.items(), &artifact_keys);
        host.cache.remove(&choose(&items, &needed, goal)).await;
    }
    if let Some(goal) = images_goal {
        let items = answered_for(host.images.items(), &image_keys);
        let needed = needed.images.iter().map(|name| canonical(name)).collect();
        remove_images(host, &choose(&items, &needed, goal)).await;
    }
}

/// What came after the question was never answered for: it counts as held.
pub(crate) fn answered_for(mut items: Vec<Item>, asked: &BTreeSet<String>) -> Vec<Item> {
    for item in &mut items {
        item.is_held |= !asked.contains(&item.key);
    }
    items
}

/// The hash in a key of the cache.
fn sha256_of(key: &str) -> &str {
    key.split_once('-').map_or(key, |(sha256, _)| sha256)
}

async fn remove_images(host: &Host, names: &[String]) {
    let Some(engine) = host.engine.current() else {
        return;
    };
    for name in names {
        match host
            .images
            .remove(name, async || engine.remove_image(name).await)
            .await
        {
            Ok(None) => {}
            Ok(Some(Ok(true))) => tracing::info!(image = name, "removed: it was not used any more"),
            Ok(Some(Ok(false))) => tracing::info!(image = name, "stays: somebody else's container uses it"),
            Ok(Some(Err(error))) => tracing::warn!(image = name, %error, "could not be removed"),
            Err(error) => tracing::warn!(%error, "the list of images could not be kept"),
        }
    }
}
