//! Organizations and namespaces.

use crate::handler::routes;
use crate::{
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, invalid_field, refuse},
    identity::{Actor, Person},
    page::list_query,
    policy::{Policy, Reach},
    store::{
        change::{About, Change},
        organization,
    },
};
use axum::{extract::State, response::Response};
use zectre_common::{
    plain::is_plain,
    spec::valid_slug,
    state::Role,
    wire::{
        auth::{CreateNamespaceRequest, CreateOrganizationRequest, Namespace, Organization},
        page::Page,
    },
};
use zectre_service::extract::{Json, Query};

/// Said about every wrong slug.
pub(super) const SLUG_RULE: &str = "lower case letters, digits and `-`, starting with a letter, at most 40";

list_query! {
    /// Of organizations.
    OrgsQuery sorted by OrgSort { Slug = "slug", Name = "name", CreatedAt = "created_at" } smallest first, filtered by {}
}

list_query! {
    /// Of namespaces.
    NamespacesQuery sorted by NamespaceSort { Name = "name", CreatedAt = "created_at" } smallest first, filtered by {}
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Member(Role::Viewer), routes!(list)),
        endpoint(Policy::Account, routes!(create)).creates(),
        endpoint(Policy::Member(Role::Viewer), routes!(list_namespaces)),
        endpoint(Policy::Member(Role::Admin), routes!(create_namespace)).creates(),
    ]
}

/// Your organizations.
#[utoipa::path(get, path = "/orgs", tag = "organizations", params(OrgsQuery),
               responses((status = 200, description = "A page", body = Page<Organization>)))]
async fn list(
    State(context): State<Context>,
    reach: Reach,
    Query(query): Query<OrgsQuery>,
) -> Result<Json<Page<Organization>>, Error> {
    let window = query.window()?;
    let (rows, total) = organization::list(&context.lists, reach.organizations().as_deref(), &window).await?;
    Ok(Json(window.page(rows, total)))
}

/// Makes an organization that you own.
#[utoipa::path(post, path = "/orgs", tag = "organizations", request_body = CreateOrganizationRequest,
               responses((status = 201, description = "The organization", body = Organization)))]
async fn create(
    State(context): State<Context>,
    person: Person,
    actor: Actor,
    Json(request): Json<CreateOrganizationRequest>,
) -> Result<Response, Error> {
    if !valid_slug(&request.slug) {
        return Err(invalid_field("slug", SLUG_RULE));
    }
    let name = request
        .name
        .as_deref()
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .unwrap_or(&request.slug);
    if name.chars().count() > 100 || !is_plain(name) {
        return Err(invalid_field(
            "name",
            "one line of at most 100 visible characters",
        ));
    }
    let mut change = Change::begin(&context.pool, &actor).await?;
    let most = u64::from(context.settings.orgs_per_user_max);
    if most > 0 && !person.is_admin && organization::count_made(change.connection(), person.id).await? >= most
    {
        return Err(refuse(
            &code::TOO_MANY_ORGANIZATIONS,
            format!(
                "you have made {most} organizations, and one person may make no more; use one of them, or ask an admin of the cluster"
            ),
        ));
    }
    let made = organization::insert(change.connection(), &request.slug, name, person.id).await?;
    let made = made.ok_or_else(|| {
        refuse(
            &code::ORGANIZATION_EXISTS,
            format!("the slug `{}` is taken; choose another one", request.slug),
        )
    })?;
    change
        .event(
            "organization.created",
            About::organization(made.id),
            &format!("organization `{}` was made", made.slug),
        )
        .await?;
    super::created(change, "/orgs", made).await
}

/// Namespaces of your organizations.
#[utoipa::path(get, path = "/namespaces", tag = "organizations", params(NamespacesQuery),
               responses((status = 200, description = "A page", body = Page<Namespace>)))]
async fn list_namespaces(
    State(context): State<Context>,
    reach: Reach,
    Query(query): Query<NamespacesQuery>,
) -> Result<Json<Page<Namespace>>, Error> {
    let window = query.window()?;
    let (rows, total) =
        organization::list_namespaces(&context.lists, reach.organizations().as_deref(), &window).await?;
    Ok(Json(window.page(rows, total)))
}

/// Makes a namespace in an organization.
#[utoipa::path(post, path = "/namespaces", tag = "organizations", request_body = CreateNamespaceRequest,
               responses((status = 201, description = "The namespace", body = Namespace)))]
async fn create_namespace(
    State(context): State<Context>,
    reach: Reach,
    actor: Actor,
    Json(request): Json<CreateNamespaceRequest>,
) -> Result<Response, Error> {
    // `/apps/by-subdomain/…` would hide the applications of a namespace of this name.
    if !valid_slug(&request.name) || request.name == "by-subdomain" {
        return Err(invalid_field("name", SLUG_RULE));
    }
    let owner = owner_named(&context, &reach, request.organization.as_deref()).await?;
    let mut change = Change::begin(&context.pool, &actor).await?;
    let most = u64::from(context.settings.namespaces_per_org_max);
    if most > 0 && organization::count_namespaces(change.connection(), owner).await? >= most {
        return Err(refuse(
            &code::TOO_MANY_NAMESPACES,
            format!("the organization has {most} namespaces, and may have no more; use one of them"),
        ));
    }
    let made = organization::insert_namespace(change.connection(), owner, &request.name).await?;
    let made = made.ok_or_else(|| {
        refuse(
            &code::NAMESPACE_EXISTS,
            format!("the name `{}` is taken; choose another one", request.name),
        )
    })?;
    change
        .event(
            "namespace.created",
            About::organization(owner),
            &format!("namespace `{}` was made", made.name),
        )
        .await?;
    super::created(change, "/namespaces", made).await
}

/// The organization with this slug (`default` unless named), if the caller's role in it is enough.
pub(super) async fn owner_named(
    context: &Context,
    reach: &Reach,
    slug: Option<&str>,
) -> Result<zectre_common::id::OrganizationId, Error> {
    let slug = slug.unwrap_or("default");
    let hidden = || {
        refuse(
            &code::ORGANIZATION_NOT_FOUND,
            format!("there is no organization `{slug}`"),
        )
    };
    if !valid_slug(slug) {
        return Err(hidden());
    }
    let owner = organization::by_slug(&context.pool, slug)
        .await?
        .ok_or_else(hidden)?;
    reach.require(owner, hidden())?;
    Ok(owner)
}
