//! Says when a file was written to: one inotify descriptor for all files of the agent.

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::{
    collections::HashMap,
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{io::unix::AsyncFd, sync::Notify};
use zectre_service::tasks::Shutdown;

/// Room for the events of one read; each takes 16 bytes.
const EVENT_BYTES: usize = 4_096;

type Listeners = HashMap<i32, Arc<Notify>>;

/// The watched files.
#[derive(Debug)]
pub(crate) struct Watcher {
    inotify: AsyncFd<OwnedFd>,
    listeners: Mutex<Listeners>,
}

/// Keeps a file watched.
#[derive(Debug)]
pub(crate) struct Watched {
    watcher: Arc<Watcher>,
    descriptor: i32,
}

impl Watcher {
    /// Watches nothing yet. Must be called within the runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its replacement is unsafe code; an OwnedFd is what the warning asks for"
        )]
        let inotify = AsyncFd::new(inotify)?;
        Ok(Self {
            inotify,
            listeners: Mutex::default(),
        })
    }

    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes `written` at every write to the file at `path`, which must exist.
    pub(crate) fn watch(self: &Arc<Self>, path: &Path, written: Arc<Notify>) -> io::Result<Watched> {
        // The table is locked first: an event between the two steps must find its listener.
        let mut listeners = self.listeners();
        let descriptor = inotify::add_watch(&self.inotify, path, WatchFlags::MODIFY)?;
        listeners.insert(descriptor, written);
        Ok(Watched {
            watcher: self.clone(),
            descriptor,
        })
    }

    /// Passes events on until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: Shutdown) {
        while let Some(ready) = stop.or_requested(self.inotify.readable()).await {
            match ready {
                Ok(mut guard) => {
                    self.pass_on();
                    guard.clear_ready();
                }
                Err(error) => {
                    tracing::error!(%error, "file events can't be read");
                    stop.requested().await;
                }
            }
        }
    }

    /// Reads until nothing is left, so that clearing the readiness afterwards loses nothing.
    fn pass_on(&self) {
        let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = events.next() {
            let listeners = self.listeners();
            if event.wd() < 0 {
                // The kernel's queue overflowed: anything may have been written.
                listeners.values().for_each(|written| written.notify_one());
            } else if let Some(written) = listeners.get(&event.wd()) {
                written.notify_one();
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watcher.listeners().remove(&self.descriptor);
        // It is gone already when its file is.
        let _ = inotify::remove_watch(&self.watcher.inotify, self.descriptor);
    }
}
