//! What a command has begun on the platform, to be told when Ctrl-C ends it.

use crate::{context::Context, error::CliError, output::Shown};
use std::{cell::Cell, time::Duration};
use zectre_common::{id::BuildId, wire::deployment::Deployment};

/// Nobody who pressed Ctrl-C waits longer.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// How far a command has come.
#[derive(Debug, Default)]
pub(crate) struct Begun(Cell<Stage>);

#[derive(Debug, Default, Clone, Copy)]
enum Stage {
    #[default]
    Nothing,
    Build(BuildId),
    /// The platform may have heard of it.
    Asked(Work),
    /// The platform has accepted it, for the deployment of this version.
    Accepted(Work, u32),
}

/// What goes on without the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Rollout,
    Scaling,
    Promotion,
    Rollback,
    Cancellation,
    Restart,
    Sleep,
    Wake,
}

impl Work {
    const fn name(self) -> &'static str {
        match self {
            Self::Rollout => "rollout",
            Self::Scaling => "scaling",
            Self::Promotion => "promotion",
            Self::Rollback => "rollback",
            Self::Cancellation => "cancellation",
            Self::Restart => "restart",
            Self::Sleep => "sleep",
            Self::Wake => "wake",
        }
    }
}

impl Begun {
    /// A build is queued or runs for this command.
    pub(crate) fn build(&self, id: BuildId) {
        self.0.set(Stage::Build(id));
    }

    /// The build has ended.
    pub(crate) fn built(&self) {
        self.0.set(Stage::Nothing);
    }

    /// The platform is about to be asked for something.
    pub(crate) fn asks(&self, work: Work) {
        self.0.set(Stage::Asked(work));
    }

    /// The platform has accepted it.
    pub(crate) fn accepted(&self, work: Work, deployment: &Deployment) {
        self.0.set(Stage::Accepted(work, deployment.version));
    }

    /// Ends what nobody wants any more, and says what is left.
    async fn leave(&self, context: &Context) -> String {
        let stage = self.0.get();
        if let Stage::Build(id) = stage {
            let cancel = context.client.cancel_build(id);
            if let Ok(Ok(_)) = tokio::time::timeout(CANCEL_TIMEOUT, cancel).await {
                return "Interrupted; the build was cancelled.".into();
            }
        }
        left(stage)
    }
}

/// What is said of what is left.
fn left(stage: Stage) -> String {
    match stage {
        Stage::Nothing => "Interrupted before anything had begun.".into(),
        Stage::Build(id) => {
            format!("The build {id} goes on without you; `zectre builds` shows how it ends.")
        }
        Stage::Asked(work) => format!(
            "Interrupted while the platform was asked for the {}; `zectre status` shows whether it has begun.",
            work.name()
        ),
        Stage::Accepted(Work::Rollout, version) => {
            format!("Version {version} goes on without you; `zectre status` shows how it is.")
        }
        Stage::Accepted(work, version) => format!(
            "The {} of version {version} goes on without you; `zectre status` shows how it is.",
            work.name()
        ),
    }
}

/// Does `work` until it is done or Ctrl-C ends it.
pub(crate) async fn interruptible(
    context: &Context,
    work: impl AsyncFnOnce(&Begun) -> Result<Shown, CliError>,
) -> Result<Shown, CliError> {
    let begun = Begun::default();
    tokio::select! {
        biased;
        result = work(&begun) => return result,
        () = interrupted() => {}
    }
    Err(CliError::Interrupted(begun.leave(context).await))
}

/// Resolves at Ctrl-C.
pub(crate) async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without a handler there is nothing to wait for.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_named() {
        for (stage, says) in [
            (Stage::Nothing, "before anything had begun"),
            (Stage::Asked(Work::Restart), "asked for the restart"),
            (Stage::Accepted(Work::Rollout, 7), "Version 7 goes on without you"),
            (
                Stage::Accepted(Work::Restart, 7),
                "The restart of version 7 goes on without you",
            ),
        ] {
            let said = left(stage);
            assert!(said.contains(says), "{said}");
        }
    }
}
