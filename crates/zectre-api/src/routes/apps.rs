//! Applications.

use super::{gone, orgs::SLUG_RULE};
use crate::handler::routes;
use crate::{
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, invalid, invalid_field, refuse},
    identity::Actor,
    page::list_query,
    policy::{Policy, Reach, Thing},
    quota::{Resource, Watch},
    scheduler,
    store::{
        app,
        change::{About, Change},
        deployment, environment, organization,
    },
};
use axum::{extract::State, response::Response};
use http::StatusCode;
use zectre_common::{
    id::ApplicationId,
    plain, routing,
    spec::{DeploymentRequest, FieldError, Labels, valid_slug},
    state::{OperationKind, Role},
    wire::{
        app::{App, CreateAppRequest, UpdateAppRequest},
        page::Page,
    },
};
use zectre_service::extract::{Json, Path, Query};

/// Made with every application.
pub(super) const FIRST_ENVIRONMENTS: [&str; 2] = ["production", "development"];
/// `/apps/{id}/…` and `/apps/{namespace}/{name}` share their form: an application of such a name would be hidden.
const RESERVED_NAMES: [&str; 6] = [
    "builds",
    "custom-domains",
    "deployments",
    "env",
    "environments",
    "source",
];
const DESCRIPTION_CHARS_MAX: usize = 1_000;
const LABELS_MAX: usize = 64;
/// The longest key or value of one.
const LABEL_BYTES_MAX: usize = 256;

list_query! {
    /// Of applications.
    AppsQuery sorted by AppSort {
        CreatedAt = "created_at", Name = "name", Namespace = "namespace", Subdomain = "subdomain", UpdatedAt = "updated_at"
    } largest first, filtered by {
        /// Only those of this namespace.
        namespace: String,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Member(Role::Viewer), routes!(list)),
        endpoint(Policy::Member(Role::Developer), routes!(create)).creates(),
        endpoint(Policy::Owned(Role::Viewer, Thing::App), routes!(get)),
        endpoint(Policy::Owned(Role::Developer, Thing::App), routes!(update)),
        endpoint(Policy::Owned(Role::Admin, Thing::App), routes!(delete)),
        endpoint(Policy::Owned(Role::Viewer, Thing::AppByName), routes!(by_name)),
        endpoint(
            Policy::Owned(Role::Viewer, Thing::AppBySubdomain),
            routes!(by_subdomain),
        ),
    ]
}

/// Your applications.
#[utoipa::path(get, path = "/apps", tag = "apps", params(AppsQuery),
               responses((status = 200, description = "A page", body = Page<App>)))]
async fn list(
    State(context): State<Context>,
    reach: Reach,
    Query(query): Query<AppsQuery>,
) -> Result<Json<Page<App>>, Error> {
    let window = query.window()?;
    // Names of namespaces are slugs: anything else finds nothing, and PostgreSQL refuses some of it (NUL).
    if query.namespace.as_deref().is_some_and(|name| !valid_slug(name)) {
        return Err(refuse(
            &code::INVALID_QUERY,
            "`namespace` is not the name of a namespace",
        ));
    }
    let organizations = reach.organizations();
    let (rows, total) = app::list(
        &context.lists,
        organizations.as_deref(),
        query.namespace.as_deref(),
        &window,
    )
    .await?;
    Ok(Json(window.page(
        rows.into_iter().map(|row| row.into_app(&context.urls)).collect(),
        total,
    )))
}

/// Makes an application, with its environments `production` and `development`.
#[utoipa::path(post, path = "/apps", tag = "apps", request_body = CreateAppRequest,
               responses((status = 201, description = "The application", body = App)))]
async fn create(
    State(context): State<Context>,
    reach: Reach,
    actor: Actor,
    Json(request): Json<CreateAppRequest>,
) -> Result<Response, Error> {
    if !valid_slug(&request.name) {
        return Err(invalid_field("name", SLUG_RULE));
    }
    if RESERVED_NAMES.contains(&request.name.as_str()) {
        return Err(invalid_field(
            "name",
            format!("not one of {}", RESERVED_NAMES.join(", ")),
        ));
    }
    check_texts(
        request.description.as_deref(),
        request.labels.as_ref(),
        request.default_deployment_spec.as_ref(),
    )?;
    let namespace = request.namespace.as_deref().unwrap_or("default");
    let hidden = || {
        refuse(
            &code::NAMESPACE_NOT_FOUND,
            format!("there is no namespace `{namespace}`; make it with POST /namespaces"),
        )
    };
    if !valid_slug(namespace) {
        return Err(hidden());
    }
    let (namespace_id, owner) = organization::namespace(&context.pool, namespace)
        .await?
        .ok_or_else(hidden)?;
    reach.require(owner, hidden())?;
    let id = ApplicationId::new();
    let subdomain = routing::subdomain(&request.name, namespace);
    let mut change = Change::begin(&context.pool, &actor).await?;
    let watch = Watch::begin(
        &mut change,
        &context.settings.quotas,
        owner,
        Resource::Applications,
    )
    .await?;
    // Before the namespace's number of applications, as where one is deleted: or the two wait for each other.
    change.raise_routing_epoch().await?;
    let is_preview = app::is_preview(change.connection(), &subdomain).await?;
    if is_preview || !app::insert(change.connection(), id, namespace_id, &subdomain, &request).await? {
        let detail = format!(
            "`{namespace}` has an application `{}`, or another one has the subdomain `{subdomain}`; choose another name",
            request.name
        );
        return Err(refuse(&code::APP_EXISTS, detail));
    }
    if let Some(watch) = watch {
        watch.check(&mut change).await?;
    }
    for slug in FIRST_ENVIRONMENTS {
        environment::insert(change.connection(), id, slug).await?;
    }
    let message = format!("application `{}` was made in `{namespace}`", request.name);
    change.event("app.created", About::app(id), &message).await?;
    let row = app::get(change.connection(), id).await?;
    let app = row.ok_or_else(|| gone(Thing::App, id))?.into_app(&context.urls);
    super::created(change, &format!("/apps/{id}"), app).await
}

/// An application.
#[utoipa::path(get, path = "/apps/{id}", tag = "apps", params(("id" = ApplicationId, Path, description = "Its id")),
               responses((status = 200, description = "The application", body = App)))]
async fn get(State(context): State<Context>, Path(id): Path<ApplicationId>) -> Result<Json<App>, Error> {
    Ok(Json(show(&context, id).await?))
}

/// Changes an application; fields left out stay as they are.
#[utoipa::path(put, path = "/apps/{id}", tag = "apps", params(("id" = ApplicationId, Path, description = "Its id")),
               request_body = UpdateAppRequest, responses((status = 200, description = "The application", body = App)))]
async fn update(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<ApplicationId>,
    Json(request): Json<UpdateAppRequest>,
) -> Result<Json<App>, Error> {
    check_texts(
        request.description.as_deref(),
        request.labels.as_ref(),
        request.default_deployment_spec.as_ref(),
    )?;
    let mut change = Change::begin(&context.pool, &actor).await?;
    app::update(change.connection(), id, &request).await?;
    change
        .event("app.updated", About::app(id), "the application was changed")
        .await?;
    change.commit().await?;
    Ok(Json(show(&context, id).await?))
}

/// Deletes an application: it stops answering at once, and its tasks are stopped.
#[utoipa::path(delete, path = "/apps/{id}", tag = "apps", params(("id" = ApplicationId, Path, description = "Its id")),
               responses((status = 204, description = "Deleted")))]
async fn delete(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<ApplicationId>,
) -> Result<StatusCode, Error> {
    let mut change = Change::begin(&context.pool, &actor).await?;
    let locked = app::lock(change.connection(), id)
        .await?
        .ok_or_else(|| gone(Thing::App, id))?;
    // Before the rows of deployments, as the scheduler's commits take them: or the two wait for each other.
    change.raise_routing_epoch().await?;
    for live in deployment::live(change.connection(), id, None).await? {
        change
            .operation(OperationKind::Delete, About::deployment(id, live))
            .await?;
    }
    app::hide(change.connection(), id).await?;
    let message = format!(
        "application `{}` of `{}` was deleted",
        locked.name, locked.namespace
    );
    change.event("app.deleted", About::app(id), &message).await?;
    change.commit().await?;
    scheduler::nudge(&context, None).await;
    Ok(StatusCode::NO_CONTENT)
}

/// An application by its names.
#[utoipa::path(get, path = "/apps/{namespace}/{name}", tag = "apps",
               params(("namespace" = String, Path, description = "Its namespace"), ("name" = String, Path, description = "Its name")),
               responses((status = 200, description = "The application", body = App)))]
async fn by_name(
    State(context): State<Context>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<App>, Error> {
    let row = app::by_name(&context.pool, &namespace, &name).await?;
    Ok(Json(
        row.ok_or_else(|| gone(Thing::App, format!("{namespace}/{name}")))?
            .into_app(&context.urls),
    ))
}

/// An application by its host label.
#[utoipa::path(get, path = "/apps/by-subdomain/{subdomain}", tag = "apps",
               params(("subdomain" = String, Path, description = "Its label under the platform domain")),
               responses((status = 200, description = "The application", body = App)))]
async fn by_subdomain(
    State(context): State<Context>,
    Path(subdomain): Path<String>,
) -> Result<Json<App>, Error> {
    let row = app::by_subdomain(&context.pool, &subdomain).await?;
    Ok(Json(
        row.ok_or_else(|| gone(Thing::App, subdomain))?
            .into_app(&context.urls),
    ))
}

async fn show(context: &Context, id: ApplicationId) -> Result<App, Error> {
    let row = app::get(&context.pool, id)
        .await?
        .ok_or_else(|| gone(Thing::App, id))?;
    Ok(row.into_app(&context.urls))
}

fn check_texts(
    description: Option<&str>,
    labels: Option<&Labels>,
    defaults: Option<&DeploymentRequest>,
) -> Result<(), Error> {
    let mut errors = Vec::new();
    if description
        .is_some_and(|text| text.chars().count() > DESCRIPTION_CHARS_MAX || !plain::is_readable(text))
    {
        errors.push(FieldError::new(
            "description",
            format!("at most {DESCRIPTION_CHARS_MAX} visible characters"),
        ));
    }
    if let Some(labels) = labels {
        let fits = |text: &str| text.len() <= LABEL_BYTES_MAX && plain::is_plain(text);
        if labels.len() > LABELS_MAX
            || !labels
                .iter()
                .all(|(key, value)| !key.is_empty() && fits(key) && fits(value))
        {
            errors.push(FieldError::new(
                "labels",
                format!(
                    "at most {LABELS_MAX}; each key and each value one line of visible characters, at most {LABEL_BYTES_MAX} bytes, and \
                     no key empty"
                ),
            ));
        }
    }
    // What an application hands down must be valid by itself, or no deployment of it would be.
    if let Some(Err(wrong)) = defaults.map(|defaults| defaults.resolve(&DeploymentRequest::default())) {
        let nested =
            |one: FieldError| FieldError::new(format!("default_deployment_spec.{}", one.field), one.message);
        errors.extend(wrong.into_iter().map(nested));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(invalid(errors))
    }
}
