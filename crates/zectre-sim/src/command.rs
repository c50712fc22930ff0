//! The command line of `zectre-sim`: many seeds at once, or one with its trace.

use crate::{Outcome, run};
use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

const USAGE: &str = "\
usage: zectre-sim [--seeds N] [--seed S] [--trace] [--planted NAME|all]

  --seeds N        how many seeds to run (200)
  --seed S         the first of them (1)
  --trace          print every line of the trace
  --planted NAME   plant a bug and count the seeds until it is found; `all` plants them one after the other
                   (a build with the feature `planted`); with --trace, print what happens until it is found
";

/// What is asked.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    pub(crate) seeds: Option<u64>,
    pub(crate) seed: Option<u64>,
    pub(crate) trace: bool,
    pub(crate) planted: Option<String>,
}

fn parse(arguments: &[String]) -> Result<Wish, String> {
    let mut wish = Wish::default();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().cloned().ok_or(format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("`{text}` is no number"));
        match word.as_str() {
            "--seeds" => wish.seeds = Some(number(value()?)?),
            "--seed" => wish.seed = Some(number(value()?)?),
            "--trace" => wish.trace = true,
            "--planted" => wish.planted = Some(value()?),
            _ => return Err(format!("there is no `{word}`")),
        }
    }
    Ok(wish)
}

/// Runs it with the arguments of this process.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wish = match parse(&arguments) {
        Ok(wish) => wish,
        Err(why) => {
            eprintln!("{why}\n\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    if let Some(name) = &wish.planted {
        return crate::plant::main(name, &wish);
    }
    let (first, seeds) = (wish.seed.unwrap_or(1), wish.seeds.unwrap_or(200));
    let started = Instant::now();
    let failed = if wish.trace {
        (first..first + seeds).map(|seed| run(seed, true)).find(is_broken)
    } else {
        search(first, seeds)
    };
    let secs = started.elapsed().as_secs_f64();
    match failed {
        None => {
            println!("{seeds} seeds from {first}: every promise held ({secs:.1} s)");
            ExitCode::SUCCESS
        }
        Some(outcome) => {
            eprintln!("{}", describe(&outcome));
            ExitCode::FAILURE
        }
    }
}

fn is_broken(outcome: &Outcome) -> bool {
    outcome.violation.is_some()
}

/// The lowest broken seed of `seeds` from `first` on, searched on every core.
pub fn search(first: u64, seeds: u64) -> Option<Outcome> {
    let next = AtomicU64::new(first);
    let found = AtomicBool::new(false);
    let bug = crate::plant::planted();
    let work = || {
        crate::plant::plant(bug);
        let mut broken = None;
        while !found.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                break;
            }
            let outcome = run(seed, false);
            if is_broken(&outcome) {
                found.store(true, Ordering::Relaxed);
                broken = Some(outcome);
            }
        }
        broken
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let found = workers
            .into_iter()
            .filter_map(|worker| worker.join().ok().flatten());
        found.min_by_key(|outcome| outcome.seed)
    })
}

/// A broken seed: what happened last, which promise broke, and how to see it again.
pub fn describe(outcome: &Outcome) -> String {
    let mut text = String::new();
    for line in &outcome.tail {
        text.push_str(line);
        text.push('\n');
    }
    if let Some(violation) = &outcome.violation {
        let told = format!(
            "\nseed {} breaks a promise after {} s: {}\n  {}\n\nsee it again: cargo xtask sim --seeds 1 --seed {} --trace\n",
            outcome.seed, violation.at_secs, violation.promise, violation.detail, outcome.seed
        );
        text.push_str(&told);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Violation;

    #[test]
    fn a_broken_seed_tells_the_one_command_that_shows_it_again() {
        let mut outcome = run(7, false);
        outcome.violation = Some(Violation {
            promise: "a promise",
            detail: "how it was broken".into(),
            at_secs: 12,
        });
        let told = describe(&outcome);
        assert!(
            told.contains("seed 7 breaks a promise after 12 s: a promise"),
            "{told}"
        );
        assert!(outcome.tail.iter().all(|line| told.contains(line)), "{told}");
        let again = told
            .lines()
            .last()
            .and_then(|line| line.strip_prefix("see it again: cargo xtask sim "));
        let words: Vec<String> = again.expect("the last line").split(' ').map(Into::into).collect();
        let wish = parse(&words).expect("a command line");
        assert_eq!((wish.seed, wish.seeds, wish.trace), (Some(7), Some(1), true));
    }
}
