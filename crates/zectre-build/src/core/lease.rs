//! A build belongs to the worker that holds its lease: what follows from a claim and from each renewal.

use std::time::Duration;

/// How often a build is tried when it is the worker that fails. The third worker to die of one build is
/// unlikely to be a coincidence.
pub const ATTEMPTS_MAX: u32 = 3;

/// What to do with a build that was just claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Build it.
    Build,
    /// Someone cancelled it while it waited, or while a worker that is gone held it.
    Cancel,
    /// Too many workers have died of it.
    GiveUp,
}

/// Decides about a build whose `attempts` counts this claim.
pub const fn next(cancel_requested: bool, attempts: u32) -> Next {
    if cancel_requested {
        Next::Cancel
    } else if attempts > ATTEMPTS_MAX {
        Next::GiveUp
    } else {
        Next::Build
    }
}

/// How a build stands that this worker is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Go on.
    Held,
    /// Stop, and say that it was cancelled.
    Cancelled,
    /// Stop, and say nothing: another worker may have it.
    Lost,
}

/// The answer to a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The lease is ours for another period.
    Renewed {
        /// Someone wants the build to stop.
        cancel_requested: bool,
    },
    /// It is not ours any more.
    Refused,
    /// The database did not answer.
    Unknown,
}

/// Decides after a renewal; `since_renewed` is the time since the last one that succeeded was sent. Without
/// an answer the lease counts as lost when it could have run out, so two workers are never at one build.
pub fn standing(renewal: Renewal, since_renewed: Duration, lease: Duration) -> Standing {
    match renewal {
        Renewal::Renewed {
            cancel_requested: true,
        } => Standing::Cancelled,
        Renewal::Renewed {
            cancel_requested: false,
        } => Standing::Held,
        Renewal::Unknown if since_renewed < lease => Standing::Held,
        Renewal::Unknown | Renewal::Refused => Standing::Lost,
    }
}

/// Pause between renewals: two may fail before the lease runs out.
pub fn renew_every(lease: Duration) -> Duration {
    lease / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    #[test]
    fn a_build_is_tried_as_often_as_allowed() {
        assert_eq!(next(false, 1), Next::Build);
        assert_eq!(next(false, ATTEMPTS_MAX), Next::Build);
        assert_eq!(next(false, ATTEMPTS_MAX + 1), Next::GiveUp);
    }

    #[test]
    fn a_cancelled_build_is_never_started() {
        assert_eq!(next(true, 1), Next::Cancel);
        assert_eq!(next(true, ATTEMPTS_MAX + 1), Next::Cancel);
    }

    #[test]
    fn silence_of_the_database_ends_with_the_lease() {
        assert_eq!(standing(Renewal::Unknown, LEASE / 2, LEASE), Standing::Held);
        assert_eq!(standing(Renewal::Unknown, LEASE, LEASE), Standing::Lost);
        let late = Renewal::Renewed {
            cancel_requested: false,
        };
        assert_eq!(
            standing(late, LEASE * 2, LEASE),
            Standing::Held,
            "what the database says counts"
        );
    }

    #[test]
    fn two_renewals_may_fail() {
        assert!(renew_every(LEASE) * 2 < LEASE);
    }
}
