//! `zectre doctor`: what could keep the platform from working here, each with its remedy.

mod engine;
mod machine;
mod platform;

use crate::{context::Context, error::CliError, here::is_here, output::Shown};
use serde::Serialize;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    /// Good to know; everything else works without it.
    Note,
    Fail,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Finding {
    verdict: Verdict,
    /// How it is, good or bad.
    what: String,
    /// What to do, when it isn't good.
    remedy: Option<String>,
}

impl Finding {
    fn ok(what: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Ok,
            what: what.into(),
            remedy: None,
        }
    }

    fn fail(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fail,
            what: what.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn note(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Note,
            ..Self::fail(what, remedy)
        }
    }
}

pub(crate) async fn run(context: &Context) -> Result<Shown, CliError> {
    // What is missing on this machine matters only where the platform is to run on it.
    let mut findings = machine::look(is_here(context.api_url()));
    findings.push(engine::look().await);
    findings.extend(platform::look(context).await);
    // A check that failed is told by the exit code, too, however much was read.
    let output = context.output.going_on();
    let shown = output.value(&findings, |findings| {
        for finding in findings {
            let mark = match finding.verdict {
                Verdict::Ok => "ok  ",
                Verdict::Note => "note",
                Verdict::Fail => "FAIL",
            };
            output.data(format!("{mark}  {}", finding.what));
            if let Some(remedy) = &finding.remedy {
                output.data(format!("      {remedy}"));
            }
        }
    });
    verdict(&findings).map(|()| shown)
}

/// One failed check is a failure.
fn verdict(findings: &[Finding]) -> Result<(), CliError> {
    let failed = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Fail)
        .count();
    match failed {
        0 => Ok(()),
        1 => Err(CliError::Failed(
            "a check failed; the line under it says what to do.".into(),
        )),
        count => Err(CliError::Failed(format!(
            "{count} checks failed; the line under each says what to do."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_check_is_exit_code_1_and_a_note_is_none() {
        let good = [Finding::ok("a"), Finding::note("b", "c")];
        verdict(&good).expect("nothing failed");
        let bad = [Finding::ok("a"), Finding::fail("b", "c")];
        assert_eq!(verdict(&bad).expect_err("one failed").exit_code(), 1);
    }
}
