//! What an organization may use, and what it does.

use crate::handler::routes;
use crate::{
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, invalid_field},
    identity::Actor,
    policy::{Policy, Thing},
    store::{
        change::{About, Change},
        quota,
    },
};
use axum::extract::State;
use sqlx::PgConnection;
use zectre_common::{
    id::OrganizationId,
    state::Role,
    wire::quota::{Quota, SetQuotaRequest},
};
use zectre_service::extract::{Json, Path};

/// Bytes and counts beyond this are no limit; 0 says so.
const AMOUNT_MAX: u64 = i64::MAX as u64;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Owned(Role::Viewer, Thing::Organization), routes!(get)),
        endpoint(Policy::ClusterAdmin, routes!(set)),
    ]
}

/// What the organization may use, and what it uses.
#[utoipa::path(get, path = "/orgs/{slug}/quota", tag = "organizations", params(("slug" = String, Path, description = "The organization")),
               responses((status = 200, description = "The quota", body = Quota)))]
async fn get(State(context): State<Context>, Path(slug): Path<String>) -> Result<Json<Quota>, Error> {
    let organization = super::members::named(&context, &slug).await?;
    let mut connection = context.pool.acquire().await?;
    Ok(Json(show(&context, &mut connection, organization).await?))
}

/// Sets what the organization may use; what is left out is as the cluster's configuration says.
///
/// What it uses already is not taken from it.
#[utoipa::path(put, path = "/orgs/{slug}/quota", tag = "organizations", params(("slug" = String, Path, description = "The organization")),
               request_body = SetQuotaRequest, responses((status = 200, description = "The quota", body = Quota)))]
async fn set(
    State(context): State<Context>,
    actor: Actor,
    Path(slug): Path<String>,
    Json(request): Json<SetQuotaRequest>,
) -> Result<Json<Quota>, Error> {
    for (field, amount) in amounts(&request) {
        if amount.is_some_and(|amount| amount > AMOUNT_MAX) {
            return Err(invalid_field(
                field,
                format!("at most {AMOUNT_MAX}; 0 is no limit"),
            ));
        }
    }
    let organization = super::members::named(&context, &slug).await?;
    let mut change = Change::begin(&context.pool, &actor).await?;
    quota::hold(change.connection(), organization).await?;
    quota::set(change.connection(), organization, &request).await?;
    let what = format!("the quota of `{slug}` is {}", in_words(&request));
    change
        .event("organization.quota_set", About::organization(organization), &what)
        .await?;
    let shown = show(&context, change.connection(), organization).await?;
    change.commit().await?;
    Ok(Json(shown))
}

fn amounts(request: &SetQuotaRequest) -> [(&'static str, Option<u64>); 5] {
    [
        ("applications", request.applications),
        ("tasks", request.tasks),
        ("cpu_millis", request.cpu_millis),
        ("memory_bytes", request.memory_bytes),
        ("artifact_bytes", request.artifact_bytes),
    ]
}

/// What is set, as the feed tells it: nobody is to take a 0 for nothing at all.
fn in_words(request: &SetQuotaRequest) -> String {
    let set = amounts(request)
        .into_iter()
        .filter_map(|(name, amount)| match amount? {
            0 => Some(format!("any number of {name}")),
            most => Some(format!("at most {most} {name}")),
        });
    let set: Vec<String> = set.collect();
    if set.is_empty() {
        return "as the cluster's configuration says".into();
    }
    format!(
        "{}; what is not named is as the cluster's configuration says",
        set.join(", ")
    )
}

async fn show(
    context: &Context,
    connection: &mut PgConnection,
    organization: OrganizationId,
) -> Result<Quota, Error> {
    Ok(Quota {
        allowed: quota::allowed(connection, organization, &context.settings.quotas).await?,
        used: quota::used(connection, organization, None).await?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_told_as_none() {
        let request = SetQuotaRequest {
            tasks: Some(3),
            memory_bytes: Some(0),
            ..SetQuotaRequest::default()
        };
        let words = in_words(&request);
        assert!(
            words.starts_with("at most 3 tasks, any number of memory_bytes; what is not named"),
            "{words}"
        );
        assert_eq!(
            in_words(&SetQuotaRequest::default()),
            "as the cluster's configuration says"
        );
    }
}
