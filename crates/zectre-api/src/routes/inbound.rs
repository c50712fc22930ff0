//! Calls of forges: a push is deployed, a pull request gets an environment of its own.

use crate::handler::routes;
use crate::{
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, refuse},
    forge::{
        act::{Call, act},
        github::{Payload, Step, Wishes, is_signed, signature},
        order::Moment,
    },
    identity::Actor,
    policy::Policy,
    store::source,
};
use axum::{
    body::{Body, Bytes, to_bytes},
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use zectre_common::{
    git,
    wire::source::{InboundAnswer, InboundResult},
};
use zectre_service::{extract::too_large, seal};

/// GitHub's largest calls are 25 MB; those about pushes and pull requests are far smaller.
const BODY_BYTES_MAX: usize = 5 << 20;
/// Applications of one organization that one repository may be the source of.
const SOURCES_OF_ONE_MAX: i64 = 50;
/// Applications of all organizations whose secrets are tried on a call, as long as it is small.
const SOURCES_MAX: usize = 1_000;
/// The bytes that are hashed for one call, over all secrets: about a quarter of a second.
const HASHED_BYTES_MAX: usize = 256 << 20;
/// Calls that are checked at once: hashing takes a core each.
pub(crate) const CHECKS_AT_ONCE: usize = 2;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![endpoint(Policy::Public, routes!(github)).body_bytes_max(BODY_BYTES_MAX)]
}

/// A call of GitHub's webhook. It counts for the applications whose source the repository is, and whose secret signed it.
#[utoipa::path(post, path = "/webhooks/github", tag = "source",
               params(("X-GitHub-Event" = String, Header, description = "`push`, `pull_request` or `ping`"),
                      ("X-GitHub-Delivery" = String, Header, description = "The call's id"),
                      ("X-Hub-Signature-256" = String, Header, description = "`sha256=` and the body's HMAC in hex")),
               request_body(content = Object, content_type = "application/json", description = "GitHub's payload"),
               responses((status = 202, description = "What it came to", body = InboundAnswer)))]
async fn github(
    State(context): State<Context>,
    actor: Actor,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let (event, delivery) = (header("x-github-event"), header("x-github-delivery"));
    let named = |text: &str| (1..=100).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if !named(event) || !named(delivery) {
        let detail = "send X-GitHub-Event and X-GitHub-Delivery, as GitHub does";
        return Err(refuse(&code::INVALID_WEBHOOK, detail));
    }
    let unsigned = || {
        refuse(
            &code::INVALID_SIGNATURE,
            "no application's source is this repository with the secret that signed the call",
        )
    };
    // Before anything that costs more.
    let signature = signature(header("x-hub-signature-256")).ok_or_else(unsigned)?;
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        return Ok(too_large().into_response());
    };
    // Nothing of it is believed yet; it only says whose secret may have signed it.
    let payload: Payload = serde_json::from_slice(&body).map_err(|_| {
        let detail = "the body is not one of GitHub's: set the webhook's content type to application/json";
        refuse(&code::INVALID_WEBHOOK, detail)
    })?;
    let repository = payload.repository.as_ref().ok_or_else(unsigned)?;
    let key = git::repository_key(&repository.clone_url).ok_or_else(unsigned)?;
    let most = (HASHED_BYTES_MAX / body.len().max(1)).min(SOURCES_MAX);
    let sources = source::of_repository(&context.pool, &key, SOURCES_OF_ONE_MAX, most as i64).await?;
    let signed = signed_by(&context, sources, &body, signature).await?;
    if signed.is_empty() {
        return Err(unsigned());
    }
    let hash = Sha256::digest(&body);
    let call = Call {
        delivery,
        body_hash: &hash,
    };
    let actor = Actor {
        name: payload.sender(),
        ..actor
    };
    let results = run(&context, &actor, &call, &signed, |wishes| {
        let step = payload.step(event, wishes);
        let moment = payload.moment(&step, wishes);
        (step, moment)
    })
    .await?;
    Ok((StatusCode::ACCEPTED, axum::Json(InboundAnswer { results })).into_response())
}

/// Those whose secret signed the body. Off the runtime, few at a time.
async fn signed_by(
    context: &Context,
    sources: Vec<source::Row>,
    body: &Bytes,
    signature: [u8; 32],
) -> Result<Vec<source::Row>, Error> {
    if sources.is_empty() {
        return Ok(Vec::new());
    }
    let turn = Arc::clone(&context.inbound_checks).acquire_owned().await;
    let turn = turn.map_err(|_| Error::Internal("checks of calls have no turns".into()))?;
    let (context, body) = (context.clone(), body.clone());
    let checked = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let mut signed = Vec::new();
        for one in sources {
            let place = seal::place::source_webhook(one.application_id);
            let secret = seal::open(&context.master_key, &place, &one.webhook_secret)
                .map_err(|error| Error::Internal(format!("the secret of {place}: {error}")))?;
            if is_signed(secret.expose_secret(), &body, &signature) {
                signed.push(one);
            }
        }
        Ok(signed)
    });
    checked
        .await
        .map_err(|error| Error::Internal(format!("a call's check was cut off: {error}")))?
}

async fn run(
    context: &Context,
    actor: &Actor,
    call: &Call<'_>,
    sources: &[source::Row],
    step: impl Fn(Wishes<'_>) -> (Step, Option<Moment>),
) -> Result<Vec<InboundResult>, Error> {
    let mut results = Vec::new();
    for one in sources {
        let wishes = Wishes {
            branches: &one.branches.0,
            auto_deploy: one.auto_deploy,
            previews: one.previews,
        };
        let (step, moment) = step(wishes);
        match act(context, actor, call, one, step, moment.as_ref()).await {
            Ok(result) => results.extend(result),
            // One application's trouble is no other's.
            Err(Error::Refused { detail, .. }) => results.push(InboundResult {
                application_id: one.application_id,
                outcome: "failed".into(),
                message: detail,
                environment: None,
                url: None,
                deployment_id: None,
            }),
            Err(error) => return Err(error),
        }
    }
    if results.is_empty() {
        return Err(refuse(
            &code::WEBHOOK_REPLAYED,
            "this call has had its effect; a second one has none",
        ));
    }
    Ok(results)
}
