//! Two hundred worlds of faults, and that a seed is a world.

use zectre_sim::run;

/// Every promise holds in these worlds.
fn hold(seeds: std::ops::Range<u64>) {
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
    }
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
    let (first, again, other) = (run(7, false), run(7, false), run(8, false));
    assert_eq!((first.hash, first.lines), (again.hash, again.lines));
    assert_eq!(first.tail, again.tail);
    assert_ne!(first.hash, other.hash);
}
