//! The counting origin's book: what every replica did is written down outside of it, so that it is known even of
//! replicas that are gone.
//!
//! Each host has a page of its own on its loopback, which a cut doesn't touch: a replica that is cut off and still
//! does what a POST asked for is found out. A replica writes the id before it answers.

use crate::Network;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Where a replica finds the book on its host.
const PORT: u16 = 9_000;

/// The tasks that did what a POST asked for, by the POST's id.
type Entries = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// The book; it closes with the value.
pub struct Ledger {
    entries: Entries,
    _pages: JoinSet<()>,
}

impl Ledger {
    /// Opens a page on each of these hosts.
    pub fn open(network: &Network, hosts: &[&str]) -> Self {
        let entries = Entries::default();
        let mut pages = JoinSet::new();
        for host in hosts {
            let listener = network.listen(host, PORT);
            listener.set_nonblocking(true).expect("a socket can be made so");
            let listener = TcpListener::from_std(listener).expect("within a runtime");
            pages.spawn(page(listener, Arc::clone(&entries)));
        }
        Self {
            entries,
            _pages: pages,
        }
    }

    /// For the environment of a deployment.
    pub fn variable() -> (&'static str, String) {
        ("LEDGER", format!("127.0.0.1:{PORT}"))
    }

    /// How many POSTs were done.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none was done yet.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// What was done more than once, and by which tasks.
    pub fn repeated(&self) -> Vec<(String, Vec<String>)> {
        let entries = self.lock();
        let repeated = entries.iter().filter(|(_, tasks)| tasks.len() > 1);
        repeated.map(|(id, tasks)| (id.clone(), tasks.clone())).collect()
    }

    /// Which of these were not done.
    pub fn missing(&self, ids: &BTreeSet<String>) -> Vec<String> {
        let entries = self.lock();
        ids.iter()
            .filter(|id| !entries.contains_key(*id))
            .cloned()
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<String>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn page(listener: TcpListener, entries: Entries) {
    let mut writers = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        writers.spawn(write_down(stream, Arc::clone(&entries)));
        while writers.try_join_next().is_some() {}
    }
}

/// Lines of `TASK ID`, each confirmed with a byte.
async fn write_down(stream: TcpStream, entries: Entries) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while matches!(stream.read_line(&mut line).await, Ok(read) if read > 0) {
        if let Some((task, id)) = line.trim_end().split_once(' ') {
            let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.entry(id.into()).or_default().push(task.into());
        }
        line.clear();
        if stream.get_mut().write_all(b"1").await.is_err() {
            return;
        }
    }
}
