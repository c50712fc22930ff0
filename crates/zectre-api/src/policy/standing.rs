//! Whether a caller who was let in would be let in now: what long answers ask again, because keys are deleted, logins end and
//! members leave while they run.

use super::{Guard, Policy, Reach, person_under};
use crate::{error::Error, identity};
use axum::extract::RawPathParams;
use http::HeaderMap;
use std::sync::Arc;
use zectre_common::{id::UserId, time::Time, wire::problem::Problem};
use zectre_service::{problem::Failure, request_id};

/// What it takes to ask again.
#[derive(Clone)]
pub(crate) struct Standing(Arc<Inner>);

struct Inner {
    guard: Guard,
    params: Arc<RawPathParams>,
    /// The credential, and nothing else of the request's.
    headers: HeaderMap,
    caller: UserId,
    since: Time,
    request_id: Option<String>,
}

impl Standing {
    /// Of a request that is being let in.
    pub(super) fn new(
        guard: &Guard,
        params: &Arc<RawPathParams>,
        headers: &HeaderMap,
        caller: UserId,
    ) -> Self {
        let credential = identity::CREDENTIAL_HEADERS;
        let carried = headers
            .iter()
            .filter(|(name, _)| credential.contains(&name.as_str()));
        Self(Arc::new(Inner {
            guard: guard.clone(),
            params: Arc::clone(params),
            headers: carried
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            caller,
            since: Time::now(),
            request_id: request_id::current(),
        }))
    }

    /// Who calls.
    pub(crate) fn caller(&self) -> UserId {
        self.0.caller
    }

    /// What the caller reaches now, where the endpoint's policy says.
    ///
    /// A token that was good when the answer began and has merely expired since stays good for it: those of a catalog hold for
    /// minutes, and what they stood for is looked at.
    ///
    /// # Errors
    /// As for a new request.
    pub(crate) async fn ask(&self) -> Result<Option<Reach>, Error> {
        let Inner {
            guard,
            params,
            headers,
            since,
            ..
        } = &*self.0;
        let person = person_under(&guard.context, guard.policy, params, headers, *since).await?;
        Ok(match guard.policy {
            Policy::Member(least) => Some(Reach::new(&person, least)),
            _ => None,
        })
    }

    /// A refusal as its caller is told; `None` for an error that says nothing about them.
    pub(crate) fn refusal(&self, error: Error) -> Option<Problem> {
        let failure = Failure::from(error);
        failure.status().is_client_error().then(|| Problem {
            request_id: self.0.request_id.clone(),
            ..failure.problem().clone()
        })
    }
}
