//! What anyone may know of why an application does not serve. Its own sentence can name registries, addresses and
//! programs' output: that is for those who may see the application, in `zectre status`.

use zectre_common::state::Reason;

/// The reason as a visitor is told.
pub(crate) fn publicly(reason: Reason) -> &'static str {
    match reason {
        Reason::ImageNotFound | Reason::ImagePullFailed => "its image could not be fetched",
        Reason::ArtifactMissing | Reason::ArtifactCorrupt => "its program is not there",
        Reason::NoCapacity => "there is no room for it at the moment",
        Reason::QuotaExceeded => "its organization uses as much as it may",
        Reason::NoEligibleNode => "no machine can run it at the moment",
        Reason::PortNeverOpened | Reason::PortTaken => "it did not open its port",
        Reason::HealthCheckFailed => "it does not pass its health check",
        Reason::Exited | Reason::StartFailed | Reason::CrashLoop => "it does not keep running",
        Reason::OomKilled => "it needs more memory than it may use",
        Reason::MaxRuntime | Reason::ProgressDeadline | Reason::BuildTimeout => "it took too long",
        Reason::NodeLost => "its machine does not answer",
        Reason::BuildFailed | Reason::CompileError | Reason::InvalidSource | Reason::BuildWorkerFailed => {
            "it could not be built"
        }
        Reason::Superseded | Reason::Cancelled | Reason::Stopped | Reason::Idle => "it was stopped",
        Reason::VolumeRefused | Reason::EngineFailed | Reason::Internal => "the platform could not start it",
    }
}
