//! Looks at pending claims by itself, ever more rarely, and forgets those that were never verified: `domains add` and
//! the record are all that people need to do.

use super::{note_expired, settle};
use crate::{
    context::Context,
    error::Error,
    identity::Actor,
    store::{
        change::Change,
        custom_domain::{self, Claim},
    },
};
use futures_util::future::join_all;
use std::time::Duration;
use zectre_service::tasks::Shutdown;

/// How often it is looked whether a claim is due.
const ROUND_EVERY: Duration = Duration::from_secs(5);
/// Claims of one round; the rest is due in the next.
const BATCH_MAX: i64 = 16;

/// Rounds until the shutdown, and one whenever a claim is made.
pub(crate) async fn run(context: Context, shutdown: Shutdown) {
    let actor = Actor::platform();
    let mut rounds = tokio::time::interval(ROUND_EVERY);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let due = async {
            tokio::select! {
                _ = rounds.tick() => {}
                () = context.claimed.notified() => {}
            }
        };
        if shutdown.or_requested(due).await.is_none() {
            return;
        }
        if let Some(Err(error)) = shutdown.or_requested(round(&context, &actor)).await {
            tracing::warn!(%error, "pending domains could not be looked at; they will be with the next round");
        }
    }
}

async fn round(context: &Context, actor: &Actor) -> Result<(), Error> {
    forget_expired(context, actor).await?;
    let due = custom_domain::take_due(&context.pool, BATCH_MAX).await?;
    join_all(due.iter().map(|claim| recheck(context, actor, claim))).await;
    Ok(())
}

async fn recheck(context: &Context, actor: &Actor, claim: &Claim) {
    let found = context.domains.look(claim).await;
    match settle(context, actor, claim, found).await {
        Ok(()) | Err(Error::Refused { .. }) => {}
        Err(error) => {
            tracing::warn!(%error, domain = claim.domain, "what a look at a domain found could not be written down");
        }
    }
}

async fn forget_expired(context: &Context, actor: &Actor) -> Result<(), Error> {
    if !custom_domain::any_expired(&context.pool).await? {
        return Ok(());
    }
    let mut change = Change::begin(&context.pool, actor).await?;
    // Before the rows, as a verification takes them: or the two wait for each other.
    change.raise_routing_epoch().await?;
    let forgotten = custom_domain::forget_expired(change.connection(), BATCH_MAX).await?;
    for (application, domain) in forgotten {
        note_expired(&mut change, application, &domain).await?;
    }
    change.commit().await
}
