//! How single files read: their length, what must not be left in them, where SQL and clocks may stand.

use super::SourceFile;
use std::path::Path;

/// A file above it holds two nouns (quality.md says about 500).
const LINES_MAX: usize = 600;
/// A daemon's `main.rs` only hands over to its library.
const MAIN_LINES_MAX: usize = 20;

/// A word that must not stand in a file, where, and why. The words are split so that this table is not found by itself.
struct Ban {
    word: &'static str,
    applies: fn(&str) -> bool,
    why: &'static str,
}

const fn always(_: &str) -> bool {
    true
}

fn is_core(path: &str) -> bool {
    path.contains("/src/core/")
        || path.ends_with("/src/core.rs")
        || path.starts_with("crates/zectre-scheduler-core/src/")
}

/// SQL has its rooms; the database's own module and the test kit make and drop databases.
fn outside_store(path: &str) -> bool {
    let at_home = path.contains("/store/")
        || path.ends_with("/store.rs")
        || path.contains("/tests/")
        || path.ends_with("/tests.rs");
    !at_home && !path.starts_with("crates/zectre-testkit/") && path != "crates/zectre-common/src/db.rs"
}

const BANS: &[Ban] = &[
    Ban {
        word: concat!("todo", "!("),
        applies: always,
        why: "finish it",
    },
    Ban {
        word: concat!("unimplemented", "!("),
        applies: always,
        why: "finish it",
    },
    Ban {
        word: concat!("#[ig", "nore"),
        applies: always,
        why: "a test runs or is deleted",
    },
    Ban {
        word: concat!("sleep(Duration::", "from_"),
        applies: always,
        why: "wait for the event, not for a time",
    },
    Ban {
        word: concat!("std::thread::", "sleep"),
        applies: always,
        why: "wait for the event, not for a time",
    },
    Ban {
        word: concat!("sqlx::", "query"),
        applies: outside_store,
        why: "SQL lives in store modules",
    },
    Ban {
        word: concat!("quer", "y!("),
        applies: outside_store,
        why: "SQL lives in store modules",
    },
    Ban {
        word: concat!("query_", "as!("),
        applies: outside_store,
        why: "SQL lives in store modules",
    },
    Ban {
        word: concat!("query_", "scalar!("),
        applies: outside_store,
        why: "SQL lives in store modules",
    },
    Ban {
        word: "sqlx::",
        applies: is_core,
        why: "a pure core knows no database",
    },
    Ban {
        word: "axum::",
        applies: is_core,
        why: "a pure core knows no HTTP",
    },
    Ban {
        word: "reqwest::",
        applies: is_core,
        why: "a pure core knows no HTTP",
    },
    Ban {
        word: "tokio::",
        applies: is_core,
        why: "a pure core does no I/O",
    },
    Ban {
        word: "Time::now()",
        applies: is_core,
        why: "a pure core is given the time",
    },
    Ban {
        word: "Instant::now()",
        applies: is_core,
        why: "a pure core is given the time",
    },
    Ban {
        word: "SystemTime::now()",
        applies: is_core,
        why: "a pure core is given the time",
    },
];

/// Every break of a rule, as `path:line: why`.
pub(crate) fn complaints(files: &[SourceFile]) -> Vec<String> {
    let rust = files.iter().filter(|file| {
        Path::new(&file.path)
            .extension()
            .is_some_and(|extension| extension == "rs")
    });
    rust.flat_map(|file| {
        let mut found = banned_words(file);
        found.extend(length(file));
        found
    })
    .collect()
}

fn banned_words(file: &SourceFile) -> Vec<String> {
    let bans: Vec<_> = BANS.iter().filter(|ban| (ban.applies)(&file.path)).collect();
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for ban in bans.iter().filter(|ban| contains_word(line, ban.word)) {
            found.push(format!(
                "{}:{}: `{}`: {}",
                file.path,
                index + 1,
                ban.word,
                ban.why
            ));
        }
    }
    found
}

/// Whether `word` stands in `line` other than as the end of a longer name.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

fn length(file: &SourceFile) -> Option<String> {
    let lines = file.text.lines().count();
    let is_main = file.path.starts_with("crates/") && file.path.ends_with("/src/main.rs");
    if is_main && lines > MAIN_LINES_MAX {
        return Some(format!(
            "{}: {lines} lines: a main.rs only hands over to its library (at most {MAIN_LINES_MAX})",
            file.path
        ));
    }
    (lines > LINES_MAX).then(|| {
        format!(
            "{}: {lines} lines: two nouns in one room? (at most {LINES_MAX})",
            file.path
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints_about(path: &str, text: &str) -> Vec<String> {
        complaints(&[SourceFile {
            path: path.into(),
            text: text.into(),
        }])
    }

    #[test]
    fn sql_is_at_home_in_store_modules_only() {
        let query = concat!("let row = sqlx::", "query_", "as!(Row, \"SELECT 1\");");
        assert!(complaints_about("crates/zectre-api/src/store/apps.rs", query).is_empty());
        assert!(!complaints_about("crates/zectre-api/src/routes/apps.rs", query).is_empty());
    }

    #[test]
    fn a_pure_core_is_given_the_time() {
        assert_eq!(
            complaints_about(
                "crates/zectre-scheduler-core/src/rollout.rs",
                "let now = Time::now();"
            )
            .len(),
            1
        );
        assert!(
            complaints_about("crates/zectre-scheduler/src/engine.rs", "let now = Time::now();").is_empty()
        );
    }

    #[test]
    fn a_long_file_is_two_files() {
        assert_eq!(
            complaints_about("crates/a/src/b.rs", &"\n".repeat(LINES_MAX + 1)).len(),
            1
        );
        assert_eq!(
            complaints_about("crates/a/src/main.rs", &"\n".repeat(MAIN_LINES_MAX + 1)).len(),
            1
        );
    }
}
