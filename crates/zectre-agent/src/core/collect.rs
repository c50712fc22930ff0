//! What goes when artifacts or images take too much room.
//!
//! Nothing that is held (it runs, or is being fetched) and nothing that is needed (the cluster may start it here
//! any moment: what is current, what is being rolled out, what a rollback leads to) ever goes.

use std::collections::BTreeSet;

/// Past the bound, it goes down to so many hundredths of it, so that not every fetch collects again.
const LOW_WATERMARK_PERCENT: u64 = 80;
/// On a full disk, to so many.
const PRESSED_PERCENT: u64 = 50;

/// Something that takes room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub key: String,
    /// Its bytes.
    pub bytes: u64,
    /// Larger for what was used later.
    pub used: u64,
    /// It runs, or is being fetched.
    pub is_held: bool,
}

/// How many bytes may stay; `None` when nothing has to go.
pub fn goal(items: &[Item], bytes_max: u64, disk_is_full: bool) -> Option<u64> {
    let total = total(items);
    let part = |percent| u64::try_from(u128::from(bytes_max) * u128::from(percent) / 100).unwrap_or(u64::MAX);
    if disk_is_full {
        // Measured by what is there: the bound may be larger than the disk.
        Some(part(PRESSED_PERCENT).min(total / 2))
    } else if total > bytes_max {
        Some(part(LOW_WATERMARK_PERCENT))
    } else {
        None
    }
}

/// Whom to ask the cluster about: everything that could go.
pub fn candidates(items: &[Item]) -> Vec<&str> {
    let unheld = items.iter().filter(|item| !item.is_held);
    unheld.map(|item| item.key.as_str()).collect()
}

/// What goes so that no more than `goal` bytes stay: the longest unused first, and no more than it takes.
pub fn choose(items: &[Item], needed: &BTreeSet<String>, goal: u64) -> Vec<String> {
    let mut total = total(items);
    let mut free: Vec<&Item> = items
        .iter()
        .filter(|item| !item.is_held && !needed.contains(&item.key))
        .collect();
    free.sort_by(|a, b| (a.used, &a.key).cmp(&(b.used, &b.key)));
    let mut chosen = Vec::new();
    for item in free {
        if total <= goal {
            break;
        }
        total = total.saturating_sub(item.bytes);
        chosen.push(item.key.clone());
    }
    chosen
}

fn total(items: &[Item]) -> u64 {
    items.iter().fold(0, |sum, item| sum.saturating_add(item.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn item(key: &str, bytes: u64, used: u64, is_held: bool) -> Item {
        Item {
            key: key.into(),
            bytes,
            used,
            is_held,
        }
    }

    #[test]
    fn the_longest_unused_goes_first_and_only_as_much_as_must() {
        let items = [
            item("a", 40, 3, false),
            item("b", 40, 1, false),
            item("c", 40, 2, true),
            item("d", 10, 4, false),
        ];
        assert_eq!(goal(&items, 130, false), None);
        assert_eq!(goal(&items, 100, false), Some(80));
        assert_eq!(choose(&items, &BTreeSet::new(), 90), ["b"]);
        assert_eq!(choose(&items, &BTreeSet::from(["b".into()]), 90), ["a"]);
        assert_eq!(goal(&items, 1_000, true), Some(65));
    }

    /// A node over time: what it has fetched, who holds it, what the cluster needs.
    #[derive(Debug, Default)]
    struct Model {
        /// Bytes, last use, holders.
        here: BTreeMap<u8, (u64, u64, u32)>,
        needed: BTreeSet<u8>,
        clock: u64,
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A start that fetches what isn't there, and holds it.
        Start(u8, u64),
        End(u8),
        Deploy(u8),
        Supersede(u8),
        /// A round that asks the cluster; starts happen between the answer and the removal.
        Collect {
            full: bool,
            meanwhile: Option<u8>,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u8..12, 1_u64..60).prop_map(|(key, bytes)| Step::Start(key, bytes)),
            4 => (0_u8..12).prop_map(Step::End),
            2 => (0_u8..12).prop_map(Step::Deploy),
            2 => (0_u8..12).prop_map(Step::Supersede),
            3 => (any::<bool>(), proptest::option::of(0_u8..12))
                .prop_map(|(full, meanwhile)| Step::Collect { full, meanwhile }),
        ]
    }

    impl Model {
        fn items(&self) -> Vec<Item> {
            let items = self.here.iter();
            items
                .map(|(key, (bytes, used, holders))| item(&key.to_string(), *bytes, *used, *holders > 0))
                .collect()
        }

        fn start(&mut self, key: u8, bytes: u64) {
            self.clock += 1;
            let entry = self.here.entry(key).or_insert((bytes, 0, 0));
            (entry.1, entry.2) = (self.clock, entry.2 + 1);
        }

        fn collect(&mut self, full: bool, meanwhile: Option<u8>) -> Result<(), TestCaseError> {
            let Some(goal) = goal(&self.items(), 200, full) else {
                return Ok(());
            };
            let asked: BTreeSet<String> = candidates(&self.items()).into_iter().map(str::to_owned).collect();
            let answer: BTreeSet<String> = self
                .needed
                .iter()
                .map(ToString::to_string)
                .filter(|key| asked.contains(key))
                .collect();
            if let Some(key) = meanwhile {
                self.start(key, 30);
            }
            // Only what was asked about: something that came later was never answered for.
            let items: Vec<Item> = self.items();
            let known: Vec<Item> = items
                .into_iter()
                .map(|item| Item {
                    is_held: item.is_held || !asked.contains(&item.key),
                    ..item
                })
                .collect();
            let before = total(&known);
            let chosen = choose(&known, &answer, goal);
            let mut latest = 0;
            for key in &chosen {
                let key: u8 = key.parse().expect("our own");
                let (_, used, holders) = self.here.remove(&key).expect("chosen once, and there");
                prop_assert_eq!(holders, 0, "in use or in flight");
                prop_assert!(!self.needed.contains(&key), "needed");
                prop_assert!(used >= latest, "in order of use");
                latest = used;
            }
            let after = total(&self.items());
            if let Some(last) = chosen.last() {
                let bytes = known
                    .iter()
                    .find(|item| item.key == *last)
                    .map_or(0, |item| item.bytes);
                prop_assert!(after + bytes > goal && before > goal, "no more than must");
            }
            let more_could_go = known
                .iter()
                .any(|item| !item.is_held && !answer.contains(&item.key) && !chosen.contains(&item.key));
            prop_assert!(after <= goal || !more_could_go, "as much as can");
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn nothing_held_or_needed_ever_goes(steps in proptest::collection::vec(step(), 0..80)) {
            let mut model = Model::default();
            for step in steps {
                match step {
                    Step::Start(key, bytes) => model.start(key, bytes),
                    Step::End(key) => if let Some(entry) = model.here.get_mut(&key) {
                        entry.2 = entry.2.saturating_sub(1);
                    },
                    Step::Deploy(key) => drop(model.needed.insert(key)),
                    Step::Supersede(key) => drop(model.needed.remove(&key)),
                    Step::Collect { full, meanwhile } => model.collect(full, meanwhile)?,
                }
            }
        }
    }
}
