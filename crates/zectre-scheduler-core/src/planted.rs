//! Bugs that can be planted, one at a time, to see that the simulator finds them. Without the feature `planted`
//! (which no ordinary build has) nothing can be planted and nothing of it is left in the program.

/// A bug. Each is one line at its place in the core, or in the simulator's model of the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// A task is told to stop without waiting for any proxy.
    StopBeforeAcknowledge,
    /// A task is told to stop once it is acknowledged, whatever it has under way.
    SkipDrain,
    /// One proxy's acknowledgement is enough.
    OneAcknowledgementIsEnough,
    /// A silent proxy is waited for.
    DeadProxyAwaited,
    /// Who waits is sent to what is taken back into the routing before that is saved.
    RevivedToldEarly,
    /// A new leader stops what the one before named to those who waited, and could not save, without telling proxies.
    NamedForgotten,
    /// A stop order has the generation of the order before.
    StaleGeneration,
    /// A port is given without a look at who has it.
    DoublePort,
    /// The last task slot is given twice.
    SlotOffByOne,
    /// Nodes that are cordoned or draining take tasks.
    CordonIgnored,
    /// What a returned node still runs is not looked at.
    ExtrasIgnored,
    /// What a node should not have is not stopped.
    ExtrasKept,
    /// A wake starts one replica too many.
    WakeTwice,
    /// A rollout has no bound on its surge.
    SurgeForgotten,
    /// The old tasks go as soon as a rollout begins.
    AvailabilityForgotten,
    /// A rollout that is lost midway gives nothing back.
    RetreatSkipped,
    /// An older rollout goes on beside the newer one.
    OlderRolloutKept,
    /// A take-over counts as done before proxies know.
    SucceedsEarly,
    /// An operation is never marked as applied.
    OperationNotMarked,
    /// An operation that is heard of again is applied again.
    OperationRepeated,
    /// A failed rollout says nothing.
    SentenceForgotten,
    /// What is known of a failed task is not kept.
    EvidenceForgotten,
    /// The lease of a node is not renewed by its digest.
    LeaseNotRenewed,
    /// A deployment's deadline passes unseen.
    DeadlineUnseen,
    /// After a reload, what tasks hold is not counted.
    HeldForgottenOnReload,
    /// The epoch that was raised is not noted at the tasks that wait for it.
    EpochForgotten,
    /// A change of routing raises no epoch.
    EpochNotRaised,
    /// A node whose name another one registered with is looked after still.
    NamesakeKept,
    /// Ended tasks stay routed.
    EndedStaysRouted,
    /// The end of a task that was told to stop is not heard.
    EndUnheard,
    /// A lost start order is not repeated.
    StartNotRepeated,
    /// Tasks that found no place are not tried again.
    UnplacedForgotten,
    /// Who waits for room that another one gets is not told.
    RefusalForgotten,
    /// Who waits for what is put to sleep goes on waiting.
    SleepForgetsWaiting,
    /// Who waits for what serves no more goes on waiting.
    DisplacedForgotten,
    /// What serves waits for room that idle superseded versions have.
    NoWayGiven,
    /// What was asked for just now is put to sleep to make room.
    BusyGivesWay,
    /// All successors of a deployment start at once.
    SuccessorsAllAtOnce,
    /// A server whose time is nearly over gets no successor.
    ReliefForgotten,
    /// A server whose time is nearly over gets one more successor each time somebody looks.
    ReliefRepeated,
    /// The older task of a slot goes before its successor is healthy.
    PredecessorFirst,
    /// A wake, or any other look at what is missing, starts two tasks in each slot.
    WakeDoublesSlot,
    /// `recreate` starts the new ones beside the old ones.
    RecreateOverlaps,
    /// Requests don't keep a deployment awake.
    ActivityIgnored,
    /// A new leader counts the time in which nobody listened as idle.
    IdleWhileUnheard,
    /// A canary comes up as a whole.
    CanaryWhole,
    /// A run to completion whose task failed goes on with another one.
    JobRepeated,
    /// A slot that ran to completion is filled again.
    JobSlotRepeated,
    /// Shell: when a deployment was asked for is told by the proxy's clock.
    ActivityByProxyClock,
    /// Shell: a proxy believes a wake's answer that is older than its table.
    StaleWakeBelieved,
    /// Shell: orders go out before they are saved.
    DispatchBeforeCommit,
    /// Shell: the database takes what an old leader writes.
    NoDatabaseFence,
    /// Shell: an agent obeys an old leader.
    NoAgentFence,
    /// Shell: the raised epoch is not fed back.
    EpochNotFedBack,
    /// Shell: a start is sent although its task has ended meanwhile.
    StartOutlivesTask,
    /// Shell: a failed commit is passed over.
    FailedCommitPassedOver,
    /// Shell: after a failed commit the term goes on with what the rows say now.
    FailedCommitReloads,
}

/// Whether a bug is planted, at its place.
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::is($crate::planted::Planted::$bug)
    };
}
pub(crate) use planted;

impl Planted {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::StopBeforeAcknowledge,
        Self::SkipDrain,
        Self::OneAcknowledgementIsEnough,
        Self::DeadProxyAwaited,
        Self::RevivedToldEarly,
        Self::NamedForgotten,
        Self::StaleGeneration,
        Self::DoublePort,
        Self::SlotOffByOne,
        Self::CordonIgnored,
        Self::ExtrasIgnored,
        Self::ExtrasKept,
        Self::WakeTwice,
        Self::SurgeForgotten,
        Self::AvailabilityForgotten,
        Self::RetreatSkipped,
        Self::OlderRolloutKept,
        Self::SucceedsEarly,
        Self::OperationNotMarked,
        Self::OperationRepeated,
        Self::SentenceForgotten,
        Self::EvidenceForgotten,
        Self::LeaseNotRenewed,
        Self::DeadlineUnseen,
        Self::HeldForgottenOnReload,
        Self::EpochForgotten,
        Self::EpochNotRaised,
        Self::NamesakeKept,
        Self::EndedStaysRouted,
        Self::EndUnheard,
        Self::StartNotRepeated,
        Self::UnplacedForgotten,
        Self::RefusalForgotten,
        Self::SleepForgetsWaiting,
        Self::DisplacedForgotten,
        Self::NoWayGiven,
        Self::BusyGivesWay,
        Self::SuccessorsAllAtOnce,
        Self::ReliefForgotten,
        Self::ReliefRepeated,
        Self::PredecessorFirst,
        Self::WakeDoublesSlot,
        Self::RecreateOverlaps,
        Self::ActivityIgnored,
        Self::IdleWhileUnheard,
        Self::CanaryWhole,
        Self::JobRepeated,
        Self::JobSlotRepeated,
        Self::ActivityByProxyClock,
        Self::StaleWakeBelieved,
        Self::DispatchBeforeCommit,
        Self::NoDatabaseFence,
        Self::NoAgentFence,
        Self::EpochNotFedBack,
        Self::StartOutlivesTask,
        Self::FailedCommitPassedOver,
        Self::FailedCommitReloads,
    ];
}

#[cfg(feature = "planted")]
mod on {
    use super::Planted;
    use std::cell::Cell;

    thread_local! {
        static BUG: Cell<Option<Planted>> = const { Cell::new(None) };
    }

    /// Plants a bug for this thread, or none.
    pub fn plant(bug: Option<Planted>) {
        BUG.set(bug);
    }

    /// Whether it is planted in this thread.
    pub fn is(bug: Planted) -> bool {
        BUG.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub use on::{is, plant};

/// Nothing is planted.
#[cfg(not(feature = "planted"))]
#[inline]
pub const fn is(_bug: Planted) -> bool {
    false
}
