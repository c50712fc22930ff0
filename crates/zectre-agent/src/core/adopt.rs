//! What an agent that has just started makes of the tasks it finds on disk.

/// What is left of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remains {
    /// Its end was concluded and kept.
    pub end_kept: bool,
    /// Its program was started (there is a record of its process or container).
    pub was_started: bool,
    /// Its supervisor (or the container) lives: same pid, same start time, not a zombie.
    pub supervisor_alive: bool,
    /// The way its program ended was recorded.
    pub exit_recorded: bool,
    /// Its program lives.
    pub program_alive: bool,
}

/// What to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has ended: tell so until it is forgotten.
    ReportEnd,
    /// It runs: watch it.
    Watch,
    /// It ended meanwhile: conclude from the record.
    Conclude,
    /// It lost its supervisor, so its end could never be known: kill what is left, and say so.
    Kill,
    /// It ended, and nobody saw how (the machine was restarted, say).
    ConcludeUnseen,
    /// It never came to run: drop it; the scheduler still wants it and says so again.
    Drop,
}

/// Decides about one task.
pub const fn verdict(remains: Remains) -> Verdict {
    match remains {
        Remains { end_kept: true, .. } => Verdict::ReportEnd,
        Remains {
            exit_recorded: true, ..
        } => Verdict::Conclude,
        Remains {
            was_started: false, ..
        } => Verdict::Drop,
        Remains {
            supervisor_alive: true,
            ..
        } => Verdict::Watch,
        Remains {
            program_alive: true, ..
        } => Verdict::Kill,
        _ => Verdict::ConcludeUnseen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_remainder_has_its_verdict() {
        let started = Remains {
            end_kept: false,
            was_started: true,
            supervisor_alive: false,
            exit_recorded: false,
            program_alive: false,
        };
        assert_eq!(
            verdict(Remains {
                supervisor_alive: true,
                program_alive: true,
                ..started
            }),
            Verdict::Watch
        );
        // The supervisor is about to write how its program ended.
        assert_eq!(
            verdict(Remains {
                supervisor_alive: true,
                ..started
            }),
            Verdict::Watch
        );
        assert_eq!(
            verdict(Remains {
                program_alive: true,
                ..started
            }),
            Verdict::Kill
        );
        assert_eq!(verdict(started), Verdict::ConcludeUnseen);
        assert_eq!(
            verdict(Remains {
                exit_recorded: true,
                ..started
            }),
            Verdict::Conclude
        );
        assert_eq!(
            verdict(Remains {
                end_kept: true,
                exit_recorded: true,
                ..started
            }),
            Verdict::ReportEnd
        );
        assert_eq!(
            verdict(Remains {
                was_started: false,
                ..started
            }),
            Verdict::Drop
        );
    }
}
