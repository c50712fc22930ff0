//! With an API that is away while something is waited for: it may be restarting, and what it was asked for goes on without
//! it.

use crate::error::CliError;
use std::time::Duration;
use tokio::time::Instant;
use zectre_client::ClientError;

/// How long an API that was there is waited for: a restart takes seconds.
const AWAY_MAX: Duration = Duration::from_secs(60);

/// What is left of it; new whenever the API has answered.
#[derive(Debug, Default)]
pub(super) struct Patience {
    away_since: Option<Instant>,
}

impl Patience {
    /// Whether the API was away when it was asked last.
    pub(super) fn is_tried(&self) -> bool {
        self.away_since.is_some()
    }

    /// What to tell meanwhile of `what`, which goes on; the error, when it is none that passes; another one, which says
    /// where to `look` later, when the API has been away for too long.
    pub(super) fn spend(
        &mut self,
        error: CliError,
        now: Instant,
        what: &str,
        look: &str,
    ) -> Result<String, CliError> {
        let CliError::Client(cause) = &error else {
            return Err(error);
        };
        if !cause.is_passing() && !matches!(cause, ClientError::TimedOut { .. }) {
            return Err(error);
        }
        let since = *self.away_since.get_or_insert(now);
        if now.duration_since(since) >= AWAY_MAX {
            return Err(CliError::Away(format!(
                "{cause}.\nMeanwhile {what} goes on by itself: once the API answers, {look}."
            )));
        }
        Ok(format!("The API does not answer; {what} goes on meanwhile"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_that_is_away_is_waited_for_and_not_for_ever() {
        let away = || {
            CliError::Client(ClientError::Unreachable {
                url: "http://a".into(),
                reason: "connection refused".into(),
            })
        };
        let late = || {
            CliError::Client(ClientError::TimedOut {
                url: "http://a".into(),
                after_secs: 35,
            })
        };
        let (mut patience, began) = (Patience::default(), Instant::now());
        let mut spend = |error, after: Duration| {
            patience.spend(
                error,
                began + after,
                "the build 7",
                "`zectre builds` shows how it ends",
            )
        };
        let told = spend(away(), Duration::ZERO).expect("it may come back");
        assert!(told.contains("the build 7 goes on meanwhile"), "{told}");
        spend(late(), AWAY_MAX / 2).expect("it may come back");
        let given_up = spend(away(), AWAY_MAX).expect_err("it does not come back");
        assert_eq!(given_up.exit_code(), 5);
        let told = given_up.to_string();
        assert!(
            told.contains("goes on by itself") && told.contains("`zectre builds` shows how it ends."),
            "{told}"
        );
    }

    #[test]
    fn what_does_not_pass_is_no_matter_of_patience() {
        let mut patience = Patience::default();
        let refused = CliError::NotFound("no such build".into());
        let told = patience
            .spend(refused, Instant::now(), "it", "look")
            .expect_err("final");
        assert_eq!(told.exit_code(), 4);
        assert!(!patience.is_tried());
    }
}
