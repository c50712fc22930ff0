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
    Deployment(u32),
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

    /// A deployment was asked for, or changed.
    pub(crate) fn deployment(&self, deployment: &Deployment) {
        self.0.set(Stage::Deployment(deployment.version));
    }

    /// Ends what nobody wants any more, and says what is left.
    async fn leave(&self, context: &Context) -> String {
        match self.0.get() {
            Stage::Nothing => "Interrupted; nothing was deployed.".into(),
            Stage::Build(id) => {
                let cancel = context.client.cancel_build(id);
                match tokio::time::timeout(CANCEL_TIMEOUT, cancel).await {
                    Ok(Ok(_)) => "Interrupted; the build was cancelled.".into(),
                    _ => format!("The build {id} goes on without you; `zectre builds` shows how it ends."),
                }
            }
            Stage::Deployment(version) => {
                format!("Version {version} goes on without you; `zectre status` shows how it is.")
            }
        }
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
