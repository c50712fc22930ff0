//! What kinds of trouble a world had: one that never comes any more would leave its promises unproven without a word.

use crate::sim::Sim;

macro_rules! troubles {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A kind of trouble.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Trouble {
            $($(#[$doc])* $name),*
        }

        impl Trouble {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

troubles! {
    /// An agent ended; its tasks went on.
    AgentEnded,
    /// A machine lost power.
    MachineEnded,
    /// Connections were cut.
    Cut,
    /// A scheduler ended.
    SchedulerEnded,
    /// A scheduler stood still.
    SchedulerFrozen,
    /// A leader lost its lock without hearing of it.
    LockLost,
    /// A proxy ended.
    ProxyEnded,
    /// A proxy came.
    ProxyAdded,
    /// The database was down.
    DatabaseDown,
    /// A clock jumped.
    ClockShifted,
    /// Everything took long on its way.
    NetworkSlow,
    /// A message was lost.
    MessageLost,
    /// A message came twice.
    MessageTwice,
    /// A message was late by a tenth of a second or more.
    MessageLate,
    /// A commit took long.
    CommitSlow,
    /// A commit was rolled back.
    CommitFailed,
    /// A commit of which its leader did not hear.
    CommitUnheard,
    /// A commit after its leader had given up.
    CommitLate,
    /// An older leader tried to commit.
    CommitFenced,
}

impl Sim {
    /// The world has this trouble.
    pub(crate) fn trouble(&mut self, trouble: Trouble) {
        self.faults.seen.insert(trouble);
    }
}
