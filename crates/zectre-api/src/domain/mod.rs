//! Custom domains: a name leads somewhere only once it was shown that whoever claims it controls it.
//!
//! [`name`] says what a domain is, [`proof`] what shows that it is someone's; both are pure. [`look`] asks DNS and the
//! name itself, [`recheck`] does so by itself for a while, [`settle`] writes down what came of it.

pub(crate) mod look;
pub(crate) mod name;
pub(crate) mod proof;
pub(crate) mod recheck;

use crate::{
    code,
    context::Context,
    error::{Error, refuse},
    identity::Actor,
    store::{
        change::{About, Change},
        custom_domain::{self, Claim, Outcome},
    },
};
use zectre_common::{id::ApplicationId, state::DomainProof};

/// Writes down what a look at a claim found: the claim is verified and leads to its environment, or the problem is kept.
///
/// # Errors
/// `DOMAIN_NOT_VERIFIED` with what was found instead, `DOMAIN_TAKEN` when another application holds the name.
pub(crate) async fn settle(
    context: &Context,
    actor: &Actor,
    claim: &Claim,
    found: Result<DomainProof, String>,
) -> Result<(), Error> {
    let problem = match found {
        Ok(proof) => match verify(context, actor, claim, proof).await? {
            Outcome::Verified | Outcome::Overtaken => return Ok(()),
            Outcome::Taken => {
                let taken = taken(&claim.domain, proof);
                custom_domain::found_problem(&context.pool, claim.id, &taken.to_string()).await?;
                return Err(taken);
            }
        },
        Err(problem) => problem,
    };
    // Verified by another look meanwhile, the page is the application's own by now: nothing to complain of.
    if !custom_domain::found_problem(&context.pool, claim.id, &problem).await? {
        return Ok(());
    }
    Err(refuse(&code::DOMAIN_NOT_VERIFIED, problem))
}

async fn verify(
    context: &Context,
    actor: &Actor,
    claim: &Claim,
    proof: DomainProof,
) -> Result<Outcome, Error> {
    let mut change = Change::begin(&context.pool, actor).await?;
    let outcome = enter(
        &mut change,
        claim,
        proof,
        context.settings.domain_pending_ttl_secs,
    )
    .await?;
    if outcome == Outcome::Verified {
        change.commit().await?;
    }
    Ok(outcome)
}

/// Makes the claim the one that holds its name. Unless it does, the change must not be committed.
pub(crate) async fn enter(
    change: &mut Change<'_>,
    claim: &Claim,
    proof: DomainProof,
    pending_ttl_secs: u64,
) -> Result<Outcome, Error> {
    // Before the rows: two that verify the same name come one after the other.
    change.raise_routing_epoch().await?;
    let domain = &claim.domain;
    if proof == DomainProof::Dns {
        let displaced = custom_domain::displace(change.connection(), claim, pending_ttl_secs).await?;
        for loser in displaced {
            let message = format!(
                "`{domain}` leads here no longer: another application showed by its DNS that the name is its own"
            );
            change
                .event_by_platform("domain.lost", About::app(loser), &message)
                .await?;
        }
    }
    let outcome = custom_domain::verified(change.connection(), claim, proof).await?;
    if outcome == Outcome::Verified {
        let how = match proof {
            DomainProof::Dns => "by its TXT record",
            DomainProof::Http => "by the page under it",
            DomainProof::None => "without proof, as the cluster is set up",
        };
        let message = format!("`{domain}` was verified {how} and leads to its environment");
        change
            .event("domain.verified", About::app(claim.application_id), &message)
            .await?;
    }
    Ok(outcome)
}

/// Writes down that a claim was not verified in time.
pub(crate) async fn note_expired(
    change: &mut Change<'_>,
    app: ApplicationId,
    domain: &str,
) -> Result<(), Error> {
    let message = format!("`{domain}` was not verified in time and is claimed no longer");
    change
        .event_by_platform("domain.expired", About::app(app), &message)
        .await
}

/// The answer when another application holds the name.
pub(crate) fn taken(domain: &str, proof: DomainProof) -> Error {
    let what = match proof {
        DomainProof::Dns => "which showed by its DNS that the name is its own; delete it there first",
        _ => "and only a TXT record takes it from there; set yours, or delete it there first",
    };
    refuse(
        &code::DOMAIN_TAKEN,
        format!("`{domain}` belongs to another application, {what}"),
    )
}
