//! What an end means: state, reason and a sentence.

use std::time::Duration;
use zectre_common::{
    spec::RestartPolicy,
    state::{Reason, TaskState},
};

/// So many processes and threads at once are no program's usual ones: their own memory, which the kernel counts as the
/// program's, explains more than what it allocated.
const PROCESSES_MANY: u32 = 100;

/// How the program ended; both absent when nobody saw it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// What made it end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Nothing of ours.
    Itself {
        /// It had been ready before.
        was_ready: bool,
    },
    /// Its machine was restarted, or it lost its supervisor, while no agent was there: nothing that it did.
    Lost,
    /// An order.
    Ordered,
    /// The agent stops, and its tasks with it.
    AgentStops,
    /// It ran longer than it may.
    MaxRuntime(Duration),
    /// It did not become ready in time.
    NotReady {
        /// How long it had.
        start_timeout: Duration,
        /// What kept it from being ready.
        obstacle: Obstacle,
    },
    /// Its liveness probes failed.
    Unhealthy {
        /// How many in a row.
        failures: u32,
    },
    /// It was never started.
    NotStarted {
        /// The code.
        reason: Reason,
        /// The sentence.
        message: String,
    },
}

impl Cause {
    /// The program went on until it was killed for what it did not do.
    pub fn is_our_kill(&self) -> bool {
        matches!(
            self,
            Self::MaxRuntime(_) | Self::NotReady { .. } | Self::Unhealthy { .. }
        )
    }
}

/// Why a task wasn't ready when its time was over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Nothing listened on its port.
    PortClosed,
    /// Something that isn't the task listened on its port.
    PortForeign,
    /// It listened on its port, but only where no other node reaches it.
    PortUnreachable,
    /// The port was open, but the health check failed.
    CheckFailed {
        /// What was asked, and what came back; empty when it answered well, but not often enough.
        answer: String,
    },
}

/// All that is known about an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What made it end.
    pub cause: Cause,
    /// How the program ended.
    pub exit: Exit,
    /// The kernel killed some of it for want of memory.
    pub oom_killed: bool,
    /// The most processes and threads it had at once, where the kernel counts them.
    pub processes_peak: Option<u32>,
    /// Bytes of memory it was allowed.
    pub memory_bytes: u64,
    /// The port it was given.
    pub port: u16,
    /// What its end means to its deployment.
    pub restart: RestartPolicy,
}

/// The conclusion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// [`TaskState::Stopped`] or [`TaskState::Failed`].
    pub state: TaskState,
    /// The code, for a failure, and for a stop that nobody ordered.
    pub reason: Option<Reason>,
    /// The sentence.
    pub message: String,
}

/// Concludes from the facts.
pub fn conclude(facts: &Facts) -> Ending {
    let failed = |reason, message| Ending {
        state: TaskState::Failed,
        reason: Some(reason),
        message,
    };
    let stopped = |message| Ending {
        state: TaskState::Stopped,
        reason: None,
        message,
    };
    let how = describe(facts.exit);
    // Memory explains an end better than the signal it came by, unless the end was ordered.
    if facts.oom_killed
        && !matches!(
            facts.cause,
            Cause::Ordered | Cause::AgentStops | Cause::NotStarted { .. }
        )
    {
        let limit_mib = facts.memory_bytes.div_ceil(1 << 20);
        let needed = format!("the program needed more than its {limit_mib} MiB of memory");
        let message = match facts.processes_peak {
            Some(peak) if peak >= PROCESSES_MANY => format!(
                "{needed} with {peak} processes and threads at once, each of which takes some, and was killed; let it \
                 start fewer, or raise resources.memory"
            ),
            _ => format!("{needed} and was killed; raise resources.memory"),
        };
        return failed(Reason::OomKilled, message);
    }
    match &facts.cause {
        Cause::Lost => failed(
            Reason::NodeLost,
            "its node was restarted, or its supervisor was killed, while no agent watched: how the program ended is not \
             known"
                .into(),
        ),
        Cause::Ordered => stopped(format!("stopped as ordered; the program {how}")),
        Cause::AgentStops => Ending {
            reason: Some(Reason::Stopped),
            ..stopped(format!(
                "stopped because the platform on its node was stopped; the program {how}"
            ))
        },
        Cause::NotStarted { reason, message } => failed(*reason, message.clone()),
        Cause::MaxRuntime(limit) => failed(
            Reason::MaxRuntime,
            format!(
                "the program ran longer than its {} s and was stopped",
                limit.as_secs()
            ),
        ),
        Cause::Unhealthy { failures } => failed(
            Reason::HealthCheckFailed,
            format!("{failures} health checks in a row failed, so the program was stopped"),
        ),
        Cause::NotReady {
            start_timeout,
            obstacle,
        } => not_ready(facts.port, *start_timeout, obstacle),
        Cause::Itself { was_ready } => match (facts.restart, facts.exit.code) {
            (RestartPolicy::Never | RestartPolicy::OnFailure, Some(0)) => {
                stopped(format!("the program {how}"))
            }
            (RestartPolicy::Never, _) => failed(Reason::Exited, format!("the program {how}")),
            _ if *was_ready => failed(Reason::Exited, format!("the program {how} while it was serving")),
            _ => failed(
                Reason::Exited,
                format!("the program {how} before it was ready; it must stay and listen on the port in PORT"),
            ),
        },
    }
}

fn not_ready(port: u16, start_timeout: Duration, obstacle: &Obstacle) -> Ending {
    let within = format!("within {} s", start_timeout.as_secs_f64());
    let (reason, message) = match obstacle {
        Obstacle::PortClosed => (
            Reason::PortNeverOpened,
            format!(
                "the program did not listen on port {port} {within}; it must listen on 0.0.0.0 and the port in PORT"
            ),
        ),
        Obstacle::PortUnreachable => (
            Reason::PortNeverOpened,
            format!(
                "the program listened on port {port}, but not on an address that proxies on other nodes can reach, \
                 {within}; it must listen on 0.0.0.0, not on 127.0.0.1"
            ),
        ),
        Obstacle::PortForeign => (
            Reason::PortTaken,
            format!("something other than the program listens on its port {port}"),
        ),
        Obstacle::CheckFailed { answer } => {
            let answer = if answer.is_empty() {
                ""
            } else {
                &format!(": {answer}")
            };
            (
                Reason::HealthCheckFailed,
                format!(
                    "the program listened on port {port}, but its health check did not pass {within}{answer}"
                ),
            )
        }
    };
    Ending {
        state: TaskState::Failed,
        reason: Some(reason),
        message,
    }
}

fn describe(exit: Exit) -> String {
    match (exit.code, exit.signal) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended while nobody watched, so its exit code is unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts(cause: Cause, exit: Exit) -> Facts {
        Facts {
            cause,
            exit,
            oom_killed: false,
            processes_peak: None,
            memory_bytes: 64 << 20,
            port: 20_000,
            restart: RestartPolicy::Always,
        }
    }

    const CODE_0: Exit = Exit {
        code: Some(0),
        signal: None,
    };

    #[test]
    fn a_server_that_ends_has_failed_and_a_job_has_not() {
        let itself = Cause::Itself { was_ready: true };
        assert_eq!(
            conclude(&facts(itself.clone(), CODE_0)).reason,
            Some(Reason::Exited)
        );
        for restart in [RestartPolicy::Never, RestartPolicy::OnFailure] {
            let job = Facts {
                restart,
                ..facts(itself.clone(), CODE_0)
            };
            assert_eq!(conclude(&job).state, TaskState::Stopped);
            let broken = Facts {
                exit: Exit {
                    code: Some(3),
                    signal: None,
                },
                ..job
            };
            let ending = conclude(&broken);
            assert_eq!(
                (ending.state, ending.reason),
                (TaskState::Failed, Some(Reason::Exited))
            );
            assert!(ending.message.contains("code 3"), "{}", ending.message);
        }
    }

    #[test]
    fn what_was_lost_with_its_node_is_no_fault_of_the_program() {
        for restart in [
            RestartPolicy::Always,
            RestartPolicy::OnFailure,
            RestartPolicy::Never,
        ] {
            let lost = Facts {
                restart,
                ..facts(Cause::Lost, Exit::default())
            };
            let ending = conclude(&lost);
            assert_eq!(
                (ending.state, ending.reason),
                (TaskState::Failed, Some(Reason::NodeLost))
            );
            let oom = Facts {
                oom_killed: true,
                ..lost
            };
            assert_eq!(conclude(&oom).reason, Some(Reason::OomKilled), "that is known");
        }
    }

    #[test]
    fn memory_explains_a_kill_but_not_an_ordered_stop() {
        let killed = Exit {
            code: None,
            signal: Some(9),
        };
        let oom = Facts {
            oom_killed: true,
            ..facts(Cause::Itself { was_ready: true }, killed)
        };
        assert_eq!(conclude(&oom).reason, Some(Reason::OomKilled));
        for (peak, is_said) in [(None, false), (Some(4), false), (Some(900), true)] {
            let bomb = Facts {
                processes_peak: peak,
                ..oom.clone()
            };
            let message = conclude(&bomb).message;
            assert_eq!(
                message.contains("900 processes and threads"),
                is_said,
                "{message}"
            );
        }
        let ordered = Facts {
            cause: Cause::Ordered,
            ..oom
        };
        assert_eq!(conclude(&ordered).state, TaskState::Stopped);
    }

    #[test]
    fn what_kept_it_from_being_ready_is_named() {
        for (obstacle, reason) in [
            (Obstacle::PortClosed, Reason::PortNeverOpened),
            (Obstacle::PortForeign, Reason::PortTaken),
            (Obstacle::PortUnreachable, Reason::PortNeverOpened),
            (
                Obstacle::CheckFailed {
                    answer: "GET /health answered 500".into(),
                },
                Reason::HealthCheckFailed,
            ),
        ] {
            let cause = Cause::NotReady {
                start_timeout: Duration::from_secs(2),
                obstacle,
            };
            let ending = conclude(&facts(
                cause,
                Exit {
                    code: None,
                    signal: Some(15),
                },
            ));
            assert_eq!(ending.reason, Some(reason));
            assert!(ending.message.contains("20000"), "{}", ending.message);
            let is_told = ending.message.ends_with(": GET /health answered 500");
            assert_eq!(is_told, reason == Reason::HealthCheckFailed, "{}", ending.message);
        }
    }

    proptest! {
        /// Every end is an end, and every failure has its code.
        #[test]
        fn every_end_is_concluded(
            code in proptest::option::of(0_i32..256), signal in proptest::option::of(1_i32..32),
            was_ready in any::<bool>(), oom_killed in any::<bool>(), restart in 0_usize..3,
        ) {
            let restart = [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never][restart];
            let facts = Facts { oom_killed, restart, ..facts(Cause::Itself { was_ready }, Exit { code, signal }) };
            let ending = conclude(&facts);
            prop_assert!(ending.state.is_ended());
            prop_assert_eq!(ending.state == TaskState::Failed, ending.reason.is_some());
        }
    }
}
