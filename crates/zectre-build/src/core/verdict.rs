//! How an attempt ended, and what that makes of the build.

use super::lease::ATTEMPTS_MAX;
use zectre_common::{
    id::ArtifactId,
    state::{BuildStatus, Reason},
    wire::build::Diagnostic,
};

/// Mistakes kept with a build; the first few are the ones that matter.
pub const DIAGNOSTICS_MAX: usize = 50;
/// A longer message is cut.
const MESSAGE_CHARS_MAX: usize = 2_000;

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The program is in the registry.
    Built(ArtifactId),
    /// The source, or what it asks for, is at fault: trying again gives the same.
    Refused {
        /// The code.
        reason: Reason,
        /// A sentence.
        message: String,
        /// Places in the source.
        diagnostics: Vec<Diagnostic>,
    },
    /// The worker or something it needs is at fault: another attempt may do.
    Broken(String),
    /// Someone cancelled it.
    Cancelled,
    /// The worker is stopping: the attempt doesn't count.
    Interrupted,
    /// The lease was lost: another worker has the build.
    Lost,
}

impl Outcome {
    /// The source is at fault, as a whole.
    pub fn refused(reason: Reason, message: impl Into<String>) -> Self {
        Self::Refused {
            reason,
            message: message.into(),
            diagnostics: Vec::new(),
        }
    }
}

/// What becomes of the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has ended.
    End(End),
    /// It waits for a worker again.
    Requeue {
        /// Whether this attempt counts.
        counted: bool,
    },
    /// Nothing: it isn't ours.
    Nothing,
}

/// The last words about a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Never `queued` or `running`.
    pub status: BuildStatus,
    /// Unless it succeeded.
    pub reason: Option<Reason>,
    /// Unless it succeeded.
    pub message: Option<String>,
    /// Places in the source.
    pub diagnostics: Vec<Diagnostic>,
    /// What came out.
    pub artifact: Option<ArtifactId>,
}

impl End {
    fn failed(reason: Reason, message: &str, diagnostics: Vec<Diagnostic>) -> Self {
        Self {
            status: BuildStatus::Failed,
            reason: Some(reason),
            message: Some(message.chars().take(MESSAGE_CHARS_MAX).collect()),
            diagnostics: diagnostics.into_iter().take(DIAGNOSTICS_MAX).collect(),
            artifact: None,
        }
    }

    /// Cancelled; by whom was written down when it was asked for.
    pub fn cancelled() -> Self {
        let message = Some("it was cancelled".to_owned());
        let reason = Some(Reason::Cancelled);
        Self {
            status: BuildStatus::Cancelled,
            reason,
            message,
            diagnostics: Vec::new(),
            artifact: None,
        }
    }

    /// Given up: workers died of it.
    pub fn given_up() -> Self {
        let message = format!(
            "the build worker stopped {ATTEMPTS_MAX} times while it was at this build; \
             deploy again, and look at the worker's log if it stays"
        );
        Self::failed(Reason::BuildWorkerFailed, &message, Vec::new())
    }
}

/// Decides; `attempts` counts this one.
pub fn settle(outcome: Outcome, attempts: u32) -> Verdict {
    match outcome {
        Outcome::Built(artifact) => Verdict::End(End {
            status: BuildStatus::Succeeded,
            reason: None,
            message: None,
            diagnostics: Vec::new(),
            artifact: Some(artifact),
        }),
        Outcome::Refused {
            reason,
            message,
            diagnostics,
        } => Verdict::End(End::failed(reason, &message, diagnostics)),
        Outcome::Broken(_) if attempts < ATTEMPTS_MAX => Verdict::Requeue { counted: true },
        Outcome::Broken(why) => Verdict::End(End::failed(Reason::BuildWorkerFailed, &why, Vec::new())),
        Outcome::Cancelled => Verdict::End(End::cancelled()),
        Outcome::Interrupted => Verdict::Requeue { counted: false },
        Outcome::Lost => Verdict::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_broken_worker_is_given_other_chances_and_the_source_is_not() {
        let broken = || Outcome::Broken("the disk is full".into());
        assert_eq!(settle(broken(), 1), Verdict::Requeue { counted: true });
        let Verdict::End(end) = settle(broken(), ATTEMPTS_MAX) else {
            panic!("it must end")
        };
        assert_eq!(end.reason, Some(Reason::BuildWorkerFailed));
        assert_eq!(end.message.as_deref(), Some("the disk is full"));
        let Verdict::End(end) = settle(Outcome::refused(Reason::InvalidSource, "no"), 1) else {
            panic!("it must end")
        };
        assert_eq!(end.status, BuildStatus::Failed);
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        assert_eq!(settle(Outcome::Lost, 1), Verdict::Nothing);
        assert_eq!(
            settle(Outcome::Interrupted, ATTEMPTS_MAX),
            Verdict::Requeue { counted: false }
        );
    }

    proptest! {
        #[test]
        fn an_end_is_an_end_and_says_why(kind in 0_usize..4, attempts in 1_u32..10) {
            let outcome = match kind {
                0 => Outcome::Built(ArtifactId::new()),
                1 => Outcome::refused(Reason::CompileError, "x".repeat(5_000)),
                2 => Outcome::Broken("y".into()),
                _ => Outcome::Cancelled,
            };
            if let Verdict::End(end) = settle(outcome, attempts) {
                prop_assert!(end.status.is_ended());
                let succeeded = end.status == BuildStatus::Succeeded;
                prop_assert_eq!(end.artifact.is_some(), succeeded);
                prop_assert_eq!(end.reason.is_none(), succeeded);
                prop_assert!(end.message.as_ref().is_none_or(|text| text.chars().count() <= MESSAGE_CHARS_MAX));
            }
        }
    }
}
