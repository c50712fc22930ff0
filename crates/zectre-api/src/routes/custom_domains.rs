//! Custom domains: claimed by an application, and leading to one of its environments once they are verified.

use super::gone;
use crate::handler::routes;
use crate::{
    code,
    context::Context,
    domain::{self, name},
    endpoint::{Endpoint, endpoint},
    error::{Error, invalid_field, refuse},
    identity::Actor,
    page::list_query,
    policy::{Policy, Thing},
    store::{
        app,
        change::{About, Change},
        custom_domain::{self, Claim, Outcome},
        environment,
    },
};
use axum::{extract::State, response::Response};
use http::StatusCode;
use zectre_common::{
    id::{ApplicationId, CustomDomainId},
    spec::valid_slug,
    state::{DomainProof, Role},
    wire::{
        domain::{CreateCustomDomainRequest, CustomDomain},
        page::Page,
    },
};
use zectre_service::{
    extract::{Json, Path, Query},
    key::{random_bytes, to_hex},
};

/// The most domains of an application, verified or not.
const DOMAINS_MAX: i64 = 50;
/// Where a domain leads unless it is said.
const ENVIRONMENT_DEFAULT: &str = "production";

list_query! {
    /// Of custom domains.
    DomainsQuery sorted by DomainSort { Domain = "domain", CreatedAt = "created_at" } smallest first, filtered by {
        /// Only those that lead to this environment.
        environment: String,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Owned(Role::Viewer, Thing::App), routes!(list)),
        endpoint(Policy::Owned(Role::Admin, Thing::App), routes!(create)).creates(),
        endpoint(Policy::Owned(Role::Admin, Thing::App), routes!(verify)),
        endpoint(Policy::Owned(Role::Admin, Thing::App), routes!(delete)),
    ]
}

/// The custom domains of an application, with what is still to be set for those that are not verified.
#[utoipa::path(get, path = "/apps/{id}/custom-domains", tag = "domains",
               params(("id" = ApplicationId, Path, description = "The application's id"), DomainsQuery),
               responses((status = 200, description = "A page", body = Page<CustomDomain>)))]
async fn list(
    State(context): State<Context>,
    Path(id): Path<ApplicationId>,
    Query(query): Query<DomainsQuery>,
) -> Result<Json<Page<CustomDomain>>, Error> {
    let window = query.window()?;
    let environment = query.environment.as_deref();
    if environment.is_some_and(|slug| !valid_slug(slug)) {
        return Err(refuse(
            &code::INVALID_QUERY,
            "`environment` is not the slug of an environment",
        ));
    }
    let (rows, total) = custom_domain::list(&context.lists, id, environment, &window).await?;
    let shown = rows.into_iter().map(|row| show(&context, row)).collect();
    Ok(Json(window.page(shown, total)))
}

/// Claims a domain. It leads to the environment once it is verified: `verification` says what to set, and then it is
/// looked for by itself for a while, or at once by `…/verify`.
#[utoipa::path(post, path = "/apps/{id}/custom-domains", tag = "domains",
               params(("id" = ApplicationId, Path, description = "The application's id")),
               request_body = CreateCustomDomainRequest,
               responses((status = 201, description = "The domain", body = CustomDomain)))]
async fn create(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<ApplicationId>,
    Json(request): Json<CreateCustomDomainRequest>,
) -> Result<Response, Error> {
    let domain = name::normalize(&request.domain, &context.urls.domain)
        .map_err(|message| invalid_field("domain", message))?;
    if context.urls.is_own_host(&domain) {
        let message = "a service of the platform answers there: choose a domain of your own";
        return Err(invalid_field("domain", message));
    }
    let slug = request.environment.as_deref().unwrap_or(ENVIRONMENT_DEFAULT);
    let claim = Claim {
        id: CustomDomainId::new(),
        domain,
        application_id: id,
        token: to_hex(&random_bytes::<16>()),
    };
    let mut change = Change::begin(&context.pool, &actor).await?;
    insert(&context, &mut change, &claim, slug).await?;
    let message = format!("`{}` was claimed for environment `{slug}`", claim.domain);
    change.event("domain.claimed", About::app(id), &message).await?;
    if context.domains.asks_nothing() {
        let ttl = context.settings.domain_pending_ttl_secs;
        if domain::enter(&mut change, &claim, DomainProof::None, ttl).await? == Outcome::Taken {
            return Err(domain::taken(&claim.domain, DomainProof::None));
        }
    }
    let row = custom_domain::get(change.connection(), id, &claim.domain).await?;
    let made = show(&context, row.ok_or_else(|| gone(Thing::App, id))?);
    let response = super::created(change, &format!("/apps/{id}/custom-domains"), made).await?;
    context.claimed.notify_one();
    Ok(response)
}

async fn insert(context: &Context, change: &mut Change<'_>, claim: &Claim, slug: &str) -> Result<(), Error> {
    let id = claim.application_id;
    // The application's lock keeps its environment from being deleted meanwhile, and its count right.
    app::lock(change.connection(), id)
        .await?
        .ok_or_else(|| gone(Thing::App, id))?;
    let unknown = || {
        let shown: String = slug.chars().filter(|c| !c.is_control()).take(64).collect();
        refuse(
            &code::ENVIRONMENT_NOT_FOUND,
            format!("the application has no environment `{shown}`"),
        )
    };
    if !valid_slug(slug) {
        return Err(unknown());
    }
    let environment_id = environment::id(change.connection(), id, slug)
        .await?
        .ok_or_else(unknown)?;
    // Proxies answer the claim's page from now on. Before the rows, as whoever verifies or forgets takes them: or the two wait for
    // each other.
    change.raise_routing_epoch().await?;
    for expired in custom_domain::forget_expired_of(change.connection(), id).await? {
        domain::note_expired(change, id, &expired).await?;
    }
    if custom_domain::count(change.connection(), id).await? >= DOMAINS_MAX {
        return Err(refuse(
            &code::TOO_MANY_DOMAINS,
            format!("an application has at most {DOMAINS_MAX} custom domains; remove one"),
        ));
    }
    let ttl = context.settings.domain_pending_ttl_secs;
    if !custom_domain::insert(change.connection(), claim, environment_id, ttl).await? {
        let detail = format!(
            "the application has claimed `{}` already; remove it first to have it lead to another environment",
            claim.domain
        );
        return Err(refuse(&code::DOMAIN_EXISTS, detail));
    }
    Ok(())
}

/// Looks for the TXT record and the page of a domain now. Found, the domain leads to its environment from then on. One
/// that was verified by its page may be verified again by its record, which nobody else's page takes from it.
#[utoipa::path(post, path = "/apps/{id}/custom-domains/{domain}/verify", tag = "domains",
               params(("id" = ApplicationId, Path, description = "The application's id"), ("domain" = String, Path, description = "The domain")),
               responses((status = 200, description = "The domain, verified", body = CustomDomain)))]
async fn verify(
    State(context): State<Context>,
    actor: Actor,
    Path((id, text)): Path<(ApplicationId, String)>,
) -> Result<Json<CustomDomain>, Error> {
    let domain = named(&context, &text)?;
    let (claim, held) = custom_domain::claim(&context.pool, id, &domain)
        .await?
        .ok_or_else(|| unknown(&domain))?;
    if held != Some(DomainProof::Dns) {
        let found = context.domains.look(&claim).await;
        if held.is_none() || found == Ok(DomainProof::Dns) {
            domain::settle(&context, &actor, &claim, found).await?;
        }
    }
    let row = custom_domain::get(&context.pool, id, &domain).await?;
    Ok(Json(show(&context, row.ok_or_else(|| unknown(&domain))?)))
}

/// Gives a domain up: it leads nowhere at once.
#[utoipa::path(delete, path = "/apps/{id}/custom-domains/{domain}", tag = "domains",
               params(("id" = ApplicationId, Path, description = "The application's id"), ("domain" = String, Path, description = "The domain")),
               responses((status = 204, description = "Removed")))]
async fn delete(
    State(context): State<Context>,
    actor: Actor,
    Path((id, text)): Path<(ApplicationId, String)>,
) -> Result<StatusCode, Error> {
    let domain = named(&context, &text)?;
    let mut change = Change::begin(&context.pool, &actor).await?;
    // Before the rows, as a verification takes them: or the two wait for each other.
    change.raise_routing_epoch().await?;
    if !custom_domain::delete(change.connection(), id, &domain).await? {
        return Err(unknown(&domain));
    }
    let message = format!("`{domain}` was removed");
    change.event("domain.removed", About::app(id), &message).await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The domain that a path names; what can't be one is none of the application's.
fn named(context: &Context, text: &str) -> Result<String, Error> {
    name::normalize(text, &context.urls.domain).map_err(|message| {
        refuse(
            &code::DOMAIN_NOT_FOUND,
            format!("the domain in the path is not one: {message}"),
        )
    })
}

fn unknown(domain: &str) -> Error {
    refuse(
        &code::DOMAIN_NOT_FOUND,
        format!("the application has no domain `{domain}`"),
    )
}

fn show(context: &Context, row: custom_domain::Row) -> CustomDomain {
    row.into_domain(&context.urls, context.domains.page_port())
}
