//! Plants the bugs of `zectre_scheduler_core::planted`, one after the other, and counts the seeds until each is found.

use crate::{
    command::{Wish, search},
    run,
};
use std::{process::ExitCode, time::Instant};
use zectre_scheduler_core::planted::Planted;

/// A bug that is not found within so many seeds is not found.
const SEEDS_MAX: u64 = 2_000;

/// Where the rare ones were found last, which is looked at first: hunting for these takes minutes. One that doesn't show its bug any
/// more, because the worlds have changed, is searched for from the first seed on; then its new seed belongs here.
const KNOWN: &[(Planted, u64)] = &[
    (Planted::DeadProxyAwaited, 164),
    (Planted::AvailabilityForgotten, 256),
    (Planted::RevivedToldEarly, 339),
    (Planted::NoWayGiven, 530),
    (Planted::IdleWhileUnheard, 563),
    (Planted::NoAgentFence, 28),
    (Planted::StartOutlivesTask, 49),
];

#[cfg(feature = "planted")]
pub(crate) use zectre_scheduler_core::planted::plant;

/// Nothing can be planted in this build.
#[cfg(not(feature = "planted"))]
pub(crate) fn plant(_bug: Option<Planted>) {}

/// What is planted in this thread.
pub(crate) fn planted() -> Option<Planted> {
    let mut all = Planted::ALL.iter().copied();
    all.find(|bug| zectre_scheduler_core::planted::is(*bug))
}

/// Plants the bug of this name, or all, and tells how many seeds each took.
pub(crate) fn main(name: &str, wish: &Wish) -> ExitCode {
    if !cfg!(feature = "planted") {
        eprintln!("this build has no bugs to plant: build it with `--features planted`");
        return ExitCode::from(64);
    }
    let is_named = |bug: &&Planted| name == "all" || format!("{bug:?}") == name;
    let bugs: Vec<Planted> = Planted::ALL.iter().filter(is_named).copied().collect();
    if bugs.is_empty() {
        let all: Vec<String> = Planted::ALL.iter().map(|bug| format!("{bug:?}")).collect();
        eprintln!("there is no bug `{name}`; there are {}", all.join(", "));
        return ExitCode::from(64);
    }
    let (first, seeds) = bounds(wish);
    if wish.trace {
        return trace(bugs[0], first, seeds);
    }
    let mut missed = 0;
    println!("| bug | found by seed | broken promise | seconds | see it |\n|---|---|---|---|---|");
    for bug in bugs {
        let started = Instant::now();
        let found = hunt(bug, wish);
        let secs = started.elapsed().as_secs_f64();
        match found {
            Some((seed, promise)) => println!(
                "| {bug:?} | {seed} | {promise} | {secs:.1} | `cargo xtask sim --planted {bug:?} --seeds 1 --seed {seed} --trace` |"
            ),
            None => {
                missed += 1;
                println!("| {bug:?} | not within {seeds} | | {secs:.1} | |");
            }
        }
    }
    if missed > 0 {
        eprintln!("{missed} planted bugs were not found: a check has become blind");
    }
    ExitCode::from(u8::from(missed > 0))
}

/// The first seed to look at, and how many.
fn bounds(wish: &Wish) -> (u64, u64) {
    (wish.seed.unwrap_or(1), wish.seeds.unwrap_or(SEEDS_MAX))
}

/// A seed that shows the bug: the known one, unless the search is to begin somewhere else.
fn hunt(bug: Planted, wish: &Wish) -> Option<(u64, &'static str)> {
    let known = KNOWN.iter().find(|(of, _)| *of == bug).map(|(_, seed)| *seed);
    let at_known = known
        .filter(|_| wish.seed.is_none())
        .and_then(|seed| find(bug, seed, 1));
    let (first, seeds) = bounds(wish);
    at_known.or_else(|| find(bug, first, seeds))
}

/// The first seed that is broken with the bug, and whole without it; and the promise.
fn find(bug: Planted, mut first: u64, mut seeds: u64) -> Option<(u64, &'static str)> {
    loop {
        plant(Some(bug));
        let found = search(first, seeds);
        plant(None);
        let found = found?;
        if run(found.seed, false).violation.is_none() {
            return Some((found.seed, found.violation?.promise));
        }
        eprintln!("seed {} is broken without {bug:?} as well", found.seed);
        (first, seeds) = (found.seed + 1, first + seeds - found.seed - 1);
    }
}

/// Prints what happens until the bug is found.
fn trace(bug: Planted, first: u64, seeds: u64) -> ExitCode {
    plant(Some(bug));
    let found = (first..first + seeds).any(|seed| run(seed, true).violation.is_some());
    ExitCode::from(u8::from(!found))
}
