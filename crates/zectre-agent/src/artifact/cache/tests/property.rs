//! The cache on a real directory, fed by a real registry, against a model: what a task holds, what is being fetched and
//! what a rollback needs stays, whole, whatever is collected and however often the agent starts anew.

use super::*;
use crate::{
    collect::answered_for,
    core::collect::{candidates, choose, goal},
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const ARTIFACTS: u8 = 8;
/// Less than a third of all artifacts together.
const BYTES_MAX: u64 = 120;

#[derive(Debug, Clone)]
enum Step {
    /// A task starts: the artifact is fetched when it isn't there.
    Start(u8),
    /// A task ends.
    End(u8),
    /// A rollback may lead to it, or no longer does.
    Need(u8, bool),
    /// A round, while a task starts.
    Collect { full: bool, meanwhile: Option<u8> },
    /// The agent starts anew and takes up the tasks that run.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..ARTIFACTS;
    prop_oneof![
        5 => key().prop_map(Step::Start),
        4 => key().prop_map(Step::End),
        3 => (key(), any::<bool>()).prop_map(|(key, needed)| Step::Need(key, needed)),
        4 => (any::<bool>(), proptest::option::of(key()))
            .prop_map(|(full, meanwhile)| Step::Collect { full, meanwhile }),
        1 => Just(Step::Restart),
    ]
}

fn body(key: u8) -> Vec<u8> {
    vec![key; 10 * (usize::from(key) + 1)]
}

/// A registry that has them all.
async fn registry(background: &Background) -> Vec<ArtifactRef> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    background.spawn("registry", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let line = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = line
                .split_whitespace()
                .nth(1)
                .and_then(|path| path[1..].parse().ok());
            let body = body(path.expect("one of ours"));
            let head = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(&[head.into_bytes(), body].concat()).await;
        }
    });
    let of = |key: u8| ArtifactRef {
        size: body(key).len() as u64,
        url: format!("http://{address}/{key}"),
        ..artifact(&to_hex(&Sha256::digest(body(key))), ArtifactKind::Binary)
    };
    (0..ARTIFACTS).map(of).collect()
}

/// A node: its real cache, and what must be true of it.
struct Node {
    dir: tempfile::TempDir,
    background: Background,
    artifacts: Vec<ArtifactRef>,
    cache: Cache,
    held: BTreeMap<u8, Vec<Cached>>,
    needed: BTreeSet<u8>,
    /// What is there, by the model.
    here: BTreeSet<u8>,
}

impl Node {
    async fn new() -> Self {
        let (dir, background) = (tempfile::tempdir().expect("a directory"), background());
        Self {
            artifacts: registry(&background).await,
            cache: open(dir.path(), &background),
            dir,
            background,
            held: BTreeMap::new(),
            needed: BTreeSet::new(),
            here: BTreeSet::new(),
        }
    }

    fn name(&self, key: u8) -> String {
        super::key(&self.artifacts[usize::from(key)]).expect("a hash")
    }

    async fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Start(key) => {
                let got = self.cache.get(&self.artifacts[usize::from(key)]).await;
                self.hold(key, got)?;
            }
            Step::End(key) => drop(self.held.get_mut(&key).and_then(Vec::pop)),
            Step::Need(key, true) => drop(self.needed.insert(key)),
            Step::Need(key, false) => drop(self.needed.remove(&key)),
            Step::Collect { full, meanwhile } => self.collect(full, meanwhile).await?,
            Step::Restart => {
                let running: Vec<(u8, usize)> =
                    self.held.iter().map(|(key, held)| (*key, held.len())).collect();
                self.held.clear();
                self.cache = open(self.dir.path(), &self.background);
                for (key, count) in running {
                    for _ in 0..count {
                        let lease = self.cache.lease_of(&self.artifacts[usize::from(key)]);
                        self.hold(
                            key,
                            lease.ok_or_else(|| StartError::new(Reason::Internal, "it is gone")),
                        )?;
                    }
                }
            }
        }
        self.agrees()
    }

    fn hold(&mut self, key: u8, got: Result<Cached, StartError>) -> Result<(), TestCaseError> {
        let cached = got.map_err(|error| TestCaseError::fail(format!("{key}: {error:?}")))?;
        self.held.entry(key).or_default().push(cached);
        self.here.insert(key);
        Ok(())
    }

    /// A round as `collect` makes it; a start runs into it.
    async fn collect(&mut self, full: bool, meanwhile: Option<u8>) -> Result<(), TestCaseError> {
        let items = self.cache.items();
        let Some(goal) = goal(&items, BYTES_MAX, full) else {
            return Ok(());
        };
        let asked: BTreeSet<String> = candidates(&items).into_iter().map(str::to_owned).collect();
        let needed: BTreeSet<String> = self.needed.iter().map(|key| self.name(*key)).collect();
        let cache = self.cache.clone();
        let round = async {
            let items = answered_for(cache.items(), &asked);
            cache.remove(&choose(&items, &needed, goal)).await;
        };
        let start = async {
            match meanwhile {
                Some(key) => Some((key, cache.get(&self.artifacts[usize::from(key)]).await)),
                None => None,
            }
        };
        let (started, ()) = tokio::join!(start, round);
        if let Some((key, got)) = started {
            self.hold(key, got)?;
        }
        let left: BTreeSet<String> = self.cache.items().into_iter().map(|item| item.key).collect();
        let gone: Vec<u8> = self
            .here
            .iter()
            .copied()
            .filter(|key| !left.contains(&self.name(*key)))
            .collect();
        for key in &gone {
            prop_assert!(self.held.get(key).is_none_or(Vec::is_empty), "{} is in use", key);
            prop_assert!(!self.needed.contains(key), "{} is needed", key);
            self.here.remove(key);
        }
        Ok(())
    }

    /// The directory and the cache's index are what the model says.
    fn agrees(&self) -> Result<(), TestCaseError> {
        let mut expected = BTreeMap::new();
        for key in &self.here {
            let is_held = self.held.get(key).is_some_and(|held| !held.is_empty());
            expected.insert(self.name(*key), (body(*key).len() as u64, is_held));
            let kept = fs::read(self.dir.path().join(self.name(*key)).join(PROGRAM));
            prop_assert_eq!(kept.ok(), Some(body(*key)), "{} is whole", key);
        }
        let items = self.cache.items().into_iter();
        let index: BTreeMap<_, _> = items.map(|item| (item.key, (item.bytes, item.is_held))).collect();
        prop_assert_eq!(&index, &expected);
        let names = |dir: &Path| -> BTreeSet<String> {
            let entries = fs::read_dir(dir).expect("there").flatten();
            entries
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        };
        let mut on_disk = names(self.dir.path());
        on_disk.remove(INCOMING);
        prop_assert_eq!(on_disk, expected.into_keys().collect());
        prop_assert!(names(&self.dir.path().join(INCOMING)).is_empty());
        Ok(())
    }
}

fn open(dir: &Path, background: &Background) -> Cache {
    let (collector, _requests) = Collector::new();
    Cache::open(dir, collector, reqwest::Client::new(), background.clone()).expect("opened")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_held_fetched_or_needed_stays_on_a_real_disk(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut node = Node::new().await;
            for step in steps {
                node.take(step).await?;
            }
            Ok::<(), TestCaseError>(())
        })?;
    }
}
