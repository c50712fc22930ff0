//! Which events a webhook gets. Pure.

/// The most patterns of a webhook.
const PATTERNS_MAX: usize = 50;
/// The longest pattern.
const PATTERN_BYTES_MAX: usize = 64;
/// What things actions are about: a pattern with another one would wait for ever.
const THINGS: [&str; 13] = [
    "app",
    "artifact",
    "build",
    "deployment",
    "domain",
    "environment",
    "invitation",
    "member",
    "namespace",
    "organization",
    "task",
    "variable",
    "webhook",
];

/// What is meant when nothing is said.
pub(crate) fn default() -> Vec<String> {
    vec!["deployment.*".into(), "build.*".into()]
}

/// Whether these are patterns: `*`, `deployment.*` or `deployment.failed`.
///
/// # Errors
/// A sentence that says what is wrong with one.
pub(crate) fn check(patterns: &[String]) -> Result<(), String> {
    if patterns.is_empty() || patterns.len() > PATTERNS_MAX {
        return Err(format!("from 1 to {PATTERNS_MAX} actions"));
    }
    match patterns.iter().find(|pattern| !is_pattern(pattern)) {
        None => Ok(()),
        Some(wrong) => {
            let shown: String = wrong.chars().filter(|c| !c.is_control()).take(64).collect();
            Err(format!(
                "`{shown}` is not one of `*`, `deployment.*` or `deployment.failed`; actions are about: {}",
                THINGS.join(", ")
            ))
        }
    }
}

fn is_pattern(pattern: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    let Some((thing, what)) = pattern.split_once('.') else {
        return false;
    };
    let is_word = !what.is_empty() && what.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    pattern.len() <= PATTERN_BYTES_MAX && THINGS.contains(&thing) && (what == "*" || is_word)
}

/// Whether one of the patterns means the action.
pub(crate) fn matches(patterns: &[String], action: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => action.starts_with(prefix),
        None => pattern == action,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn patterns_mean_actions() {
        let these = patterns(&["build.*", "deployment.failed"]);
        assert!(matches(&these, "build.queued") && matches(&these, "deployment.failed"));
        assert!(!matches(&these, "deployment.failed_again") && !matches(&these, "buildings.queued"));
        assert!(matches(&patterns(&["*"]), "anything.at_all"));
        assert!(!matches(&[], "build.queued"));
    }

    #[test]
    fn a_pattern_that_would_never_match_is_refused() {
        assert_eq!(check(&default()), Ok(()));
        assert_eq!(check(&patterns(&["*", "domain.verified", "member.*"])), Ok(()));
        for wrong in [
            "",
            "deployment",
            "deploy.*",
            "deployment.",
            "deployment.*x",
            "*.failed",
            "Build.*",
            "\u{1b}[2J",
        ] {
            assert!(check(&patterns(&[wrong])).is_err(), "{wrong}");
        }
        assert!(check(&[]).is_err());
        assert!(check(&vec!["*".to_owned(); PATTERNS_MAX + 1]).is_err());
    }
}
