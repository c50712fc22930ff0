//! Whole numbers as arguments: what is none, or too large, is told which are taken, in the words of the manifest.

use std::ops::RangeInclusive;
use zectre_common::spec::{REPLICAS_MAX, range_in_words};

/// How many replicas there may be.
pub(super) fn replicas(text: &str) -> Result<u32, String> {
    whole(text, 0..=REPLICAS_MAX)
}

/// How many things a list shows: what the API puts on one page.
pub(super) fn limit(text: &str) -> Result<u32, String> {
    whole(text, 1..=100)
}

/// How many lines of a log are shown.
pub(super) fn tail(text: &str) -> Result<u32, String> {
    whole(text, 1..=1_000)
}

/// For how many days an API key holds.
pub(super) fn days(text: &str) -> Result<u32, String> {
    whole(text, 1..=3_650)
}

fn whole(text: &str, range: RangeInclusive<u32>) -> Result<u32, String> {
    text.parse::<u32>()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("it takes {}", range_in_words(&range)))
}

#[cfg(test)]
mod tests {
    use crate::args::Args;
    use clap::Parser;

    #[test]
    fn a_number_that_is_none_is_told_which_are_taken() {
        for (arguments, says) in [
            (&["scale", "x"][..], "a whole number from 0 to 1000"),
            (&["scale", "1001"], "a whole number from 0 to 1000"),
            (&["scale", "99999999999"], "a whole number from 0 to 1000"),
            (&["scale", "-1"], "a whole number from 0 to 1000"),
            (&["deploy", "--replicas", "1.5"], "a whole number from 0 to 1000"),
            (&["builds", "--limit", "0"], "a whole number from 1 to 100"),
            (&["logs", "--tail", "all"], "a whole number from 1 to 1000"),
            (
                &["tokens", "create", "ci", "--days", ""],
                "a whole number from 1 to 3650",
            ),
        ] {
            let refused = Args::try_parse_from(std::iter::once(&"zectre").chain(arguments));
            let said = refused.expect_err("it is no such number").to_string();
            assert!(said.contains(says), "{arguments:?}: {said}");
            assert!(!said.contains("digit"), "{arguments:?}: {said}");
        }
        let taken = Args::try_parse_from(["zectre", "scale", "1000"]);
        assert!(taken.is_ok());
    }
}
