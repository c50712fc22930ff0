//! Two hundred worlds of faults, and that a seed is a world.

mod shown;

use std::collections::{BTreeMap, BTreeSet};
use zectre_common::state::{OperationKind, Reason};
use zectre_sim::{Trouble, run};

/// Where a reason code is produced; `shown.rs` names the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// In any fifty worlds.
    Worlds,
    /// In some worlds, and by tests of the scheduler's core that are about it.
    Directed,
    /// By an agent or a build worker alone: in no world.
    Outside,
}

/// Of every code there is; a new one has to be put in its place.
fn source(reason: Reason) -> Source {
    match reason {
        Reason::ArtifactMissing
        | Reason::NoCapacity
        | Reason::PortNeverOpened
        | Reason::HealthCheckFailed
        | Reason::Exited
        | Reason::MaxRuntime
        | Reason::NodeLost
        | Reason::ProgressDeadline
        | Reason::Superseded
        | Reason::Cancelled
        | Reason::Stopped
        | Reason::Idle => Source::Worlds,
        Reason::BuildFailed | Reason::CrashLoop | Reason::NoEligibleNode | Reason::PortTaken => {
            Source::Directed
        }
        Reason::ImageNotFound
        | Reason::ImagePullFailed
        | Reason::ArtifactCorrupt
        | Reason::OomKilled
        | Reason::StartFailed
        | Reason::VolumeRefused
        | Reason::EngineFailed
        | Reason::CompileError
        | Reason::InvalidSource
        | Reason::QuotaExceeded
        | Reason::BuildTimeout
        | Reason::BuildWorkerFailed
        | Reason::Internal => Source::Outside,
    }
}

/// Every promise holds in these worlds. They had every kind of trouble, people asked for all that they can ask for, and every reason
/// why something ends in them was seen.
fn hold(seeds: std::ops::Range<u64>) {
    let mut seen: BTreeMap<Reason, u32> = BTreeMap::new();
    let (mut troubles, mut asked) = (BTreeSet::new(), BTreeSet::new());
    for seed in seeds {
        let outcome = run(seed, false);
        assert!(
            outcome.violation.is_none(),
            "{}",
            zectre_sim::command::describe(&outcome)
        );
        assert!(
            outcome.lines > 100,
            "seed {seed} is a world in which nothing happens"
        );
        troubles.extend(outcome.troubles);
        asked.extend(outcome.asked);
        for reason in outcome.reasons {
            *seen.entry(reason).or_default() += 1;
        }
    }
    let rare: Vec<_> = Trouble::ALL
        .iter()
        .filter(|one| !troubles.contains(one))
        .collect();
    assert!(rare.is_empty(), "no world had {rare:?}");
    let rare: Vec<_> = OperationKind::ALL
        .iter()
        .filter(|kind| !asked.contains(kind))
        .collect();
    assert!(rare.is_empty(), "nobody asked for {rare:?}");
    let of = |wanted: Source| {
        Reason::ALL
            .iter()
            .filter(move |reason| source(**reason) == wanted)
    };
    let missing: Vec<_> = of(Source::Worlds)
        .filter(|reason| !seen.contains_key(*reason))
        .collect();
    assert!(
        missing.is_empty(),
        "never seen: {missing:?}; what was seen, and in how many worlds: {seen:?}"
    );
    let strange: Vec<_> = of(Source::Outside)
        .filter(|reason| seen.contains_key(*reason))
        .collect();
    assert!(
        strange.is_empty(),
        "nobody in a world can find out about {strange:?}"
    );
}

#[test]
fn promises_hold_in_seeds_1_to_50() {
    hold(1..51);
}

#[test]
fn promises_hold_in_seeds_51_to_100() {
    hold(51..101);
}

#[test]
fn promises_hold_in_seeds_101_to_150() {
    hold(101..151);
}

#[test]
fn promises_hold_in_seeds_151_to_200() {
    hold(151..201);
}

#[test]
fn a_seed_is_one_world_and_another_seed_is_another() {
    let mut worlds = BTreeSet::new();
    for seed in 1..11 {
        let (first, again) = (run(seed, false), run(seed, false));
        assert_eq!(
            (first.hash, first.lines),
            (again.hash, again.lines),
            "seed {seed}"
        );
        assert_eq!(first.tail, again.tail, "seed {seed}");
        assert!(worlds.insert(first.hash), "seed {seed} is another one's world");
    }
}
