//! Variables of an application, sealed in the database; a secret's value never comes back.

use super::gone;
use crate::handler::routes;
use crate::{
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, invalid, invalid_field, refuse},
    identity::Actor,
    page::{list_query, whole_or_page},
    policy::{Policy, Thing},
    store::{
        app,
        change::{About, Change},
        environment, variable,
    },
};
use axum::extract::State;
use http::StatusCode;
use secrecy::ExposeSecret;
use serde::Deserialize;
use utoipa::IntoParams;
use zectre_common::{
    id::ApplicationId,
    spec::{ASSIGNED_ENV, ENV_BYTES_MAX, ENV_VARS_MAX, FieldError, valid_env_key},
    state::Role,
    wire::{
        app::{SetVariableRequest, Variable, VariableChange},
        page::Page,
    },
};
use zectre_service::{
    extract::{Json, Path, Query},
    seal,
};

/// The most variables of an application over all its environments.
const VARIABLES_MAX: i64 = 1_024;
/// Variables that one event names.
const NAMED_MAX: usize = 50;
/// The most bytes that their names and (sealed) values may have together: every start of a task carries them.
const VARIABLES_BYTES_MAX: i64 = 512 << 10;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Owned(Role::Viewer, Thing::App), routes!(list)),
        endpoint(Policy::Owned(Role::Developer, Thing::App), routes!(patch)),
        endpoint(Policy::Owned(Role::Developer, Thing::App), routes!(set)),
        endpoint(Policy::Owned(Role::Developer, Thing::App), routes!(delete)),
    ]
}

list_query! {
    /// Of variables.
    VariablesQuery sorted by VariableSort { Key = "key", UpdatedAt = "updated_at" } smallest first, filtered by {
        /// Only those that hold in this environment.
        environment: String,
    }
}

/// Which environment is meant.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EnvironmentQuery {
    /// Slug of an environment; without it, the value for every environment.
    environment: Option<String>,
}

/// The variables of an application, those of secrets without their values; all unless a page is asked for.
#[utoipa::path(get, path = "/apps/{id}/env", tag = "variables",
               params(("id" = ApplicationId, Path, description = "The application's id"), VariablesQuery),
               responses((status = 200, description = "A page", body = Page<Variable>)))]
async fn list(
    State(context): State<Context>,
    Path(id): Path<ApplicationId>,
    Query(query): Query<VariablesQuery>,
) -> Result<Json<Page<Variable>>, Error> {
    let window = query.window()?;
    let mut all = show_all(&context, id, query.environment.as_deref()).await?;
    if window.sort == "updated_at" {
        all.sort_by_key(|variable| variable.updated_at);
    }
    if window.descending {
        all.reverse();
    }
    let paged = query.page.is_some() || query.page_size.is_some();
    Ok(Json(whole_or_page(all, paged.then_some(window))))
}

/// By key.
async fn show_all(
    context: &Context,
    id: ApplicationId,
    environment: Option<&str>,
) -> Result<Vec<Variable>, Error> {
    let rows = variable::list(&context.pool, id, environment).await?;
    rows.into_iter().map(|row| show(context, id, row)).collect()
}

/// Sets a variable. Deployments made from now on get it.
#[utoipa::path(put, path = "/apps/{id}/env/{key}", tag = "variables",
               params(("id" = ApplicationId, Path, description = "The application's id"), ("key" = String, Path, description = "Its name")),
               request_body = SetVariableRequest, responses((status = 200, description = "The variable", body = Variable)))]
async fn set(
    State(context): State<Context>,
    actor: Actor,
    Path((id, key)): Path<(ApplicationId, String)>,
    Json(request): Json<SetVariableRequest>,
) -> Result<Json<Variable>, Error> {
    let SetVariableRequest {
        value,
        environment,
        secret,
    } = request;
    let change = VariableChange {
        key,
        value: Some(value),
        environment,
        secret,
    };
    apply(&context, &actor, id, std::slice::from_ref(&change)).await?;
    let rows = variable::list(&context.pool, id, change.environment.as_deref()).await?;
    let row = rows
        .into_iter()
        .find(|row| row.key == change.key && row.environment == change.environment);
    let row = row.ok_or_else(|| {
        refuse(
            &code::VARIABLE_NOT_FOUND,
            format!("`{}` was removed meanwhile", change.key),
        )
    })?;
    Ok(Json(show(&context, id, row)?))
}

/// Removes a variable.
#[utoipa::path(delete, path = "/apps/{id}/env/{key}", tag = "variables",
               params(("id" = ApplicationId, Path, description = "The application's id"), ("key" = String, Path, description = "Its name"),
                      EnvironmentQuery),
               responses((status = 204, description = "Removed")))]
async fn delete(
    State(context): State<Context>,
    actor: Actor,
    Path((id, key)): Path<(ApplicationId, String)>,
    Query(query): Query<EnvironmentQuery>,
) -> Result<StatusCode, Error> {
    let mut change = Change::begin(&context.pool, &actor).await?;
    if !variable::delete(change.connection(), id, query.environment.as_deref(), &key).await? {
        let place = query
            .environment
            .as_deref()
            .map_or("every environment".into(), |slug| format!("`{slug}`"));
        let shown: String = key.chars().take(128).collect();
        return Err(refuse(
            &code::VARIABLE_NOT_FOUND,
            format!("the application has no variable `{shown}` for {place}"),
        ));
    }
    let message = told("removed", &[(key.as_str(), query.environment.as_deref())]);
    change.event("variable.deleted", About::app(id), &message).await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets and removes many variables at once; all or none.
#[utoipa::path(patch, path = "/apps/{id}/env", tag = "variables",
               params(("id" = ApplicationId, Path, description = "The application's id")),
               request_body = Vec<VariableChange>,
               responses((status = 200, description = "All variables", body = Page<Variable>)))]
async fn patch(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<ApplicationId>,
    Json(changes): Json<Vec<VariableChange>>,
) -> Result<Json<Page<Variable>>, Error> {
    if changes.len() > ENV_VARS_MAX {
        return Err(invalid_field(
            "body",
            format!("at most {ENV_VARS_MAX} changes at once"),
        ));
    }
    apply(&context, &actor, id, &changes).await?;
    Ok(Json(whole_or_page(show_all(&context, id, None).await?, None)))
}

async fn apply(
    context: &Context,
    actor: &Actor,
    id: ApplicationId,
    changes: &[VariableChange],
) -> Result<(), Error> {
    let errors: Vec<FieldError> = changes.iter().filter_map(check).collect();
    if !errors.is_empty() {
        return Err(invalid(errors));
    }
    let mut change = Change::begin(&context.pool, actor).await?;
    app::lock(change.connection(), id)
        .await?
        .ok_or_else(|| gone(Thing::App, id))?;
    let before = variable::total(change.connection(), id).await?;
    let (mut set, mut removed) = (Vec::new(), Vec::new());
    for one in changes {
        let named = (one.key.as_str(), one.environment.as_deref());
        match (apply_one(context, &mut change, id, one).await?, &one.value) {
            (true, Some(_)) => set.push(named),
            (true, None) => removed.push(named),
            (false, _) => {}
        }
    }
    let total = variable::total(change.connection(), id).await?;
    // What was set under another bound may shrink.
    let has_grown = total.count > before.count || total.bytes > before.bytes;
    if has_grown && (total.count > VARIABLES_MAX || total.bytes > VARIABLES_BYTES_MAX) {
        return Err(refuse(
            &code::TOO_MANY_VARIABLES,
            format!(
                "an application has at most {VARIABLES_MAX} variables of {} KiB together: keep what is larger in a file \
                 or a service of its own",
                VARIABLES_BYTES_MAX >> 10
            ),
        ));
    }
    for (action, what, named) in [
        ("variable.set", "set", set),
        ("variable.deleted", "removed", removed),
    ] {
        if !named.is_empty() {
            change.event(action, About::app(id), &told(what, &named)).await?;
        }
    }
    change.commit().await
}

/// What the feed says of these: names and where they count, never values.
fn told(what: &str, named: &[(&str, Option<&str>)]) -> String {
    let shown = named
        .iter()
        .take(NAMED_MAX)
        .map(|(key, environment)| match environment {
            Some(slug) => format!("`{key}` of `{slug}`"),
            None => format!("`{key}`"),
        });
    let shown: Vec<_> = shown.collect();
    let more = match named.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!("variables were {what}: {}{more}", shown.join(", "))
}

/// Whether it changed anything: what is not there can't be removed.
async fn apply_one(
    context: &Context,
    change: &mut Change<'_>,
    id: ApplicationId,
    one: &VariableChange,
) -> Result<bool, Error> {
    let slug = one.environment.as_deref();
    if let Some(slug) = slug
        && environment::id(change.connection(), id, slug).await?.is_none()
    {
        return Err(refuse(
            &code::ENVIRONMENT_NOT_FOUND,
            format!("the application has no environment `{slug}`"),
        ));
    }
    match &one.value {
        Some(value) => {
            let sealed = seal::seal(
                &context.master_key,
                &seal::place::variable(id, slug, &one.key),
                value,
            );
            variable::set(change.connection(), id, slug, &one.key, &sealed, one.secret).await?;
            Ok(true)
        }
        None => variable::delete(change.connection(), id, slug, &one.key).await,
    }
}

fn check(one: &VariableChange) -> Option<FieldError> {
    let shown: String = one.key.chars().take(64).collect();
    let wrong = |message: String| Some(FieldError::new(format!("env.{shown}"), message));
    if !valid_env_key(&one.key) {
        return wrong("letters, digits and `_`, not starting with a digit, at most 128".into());
    }
    if ASSIGNED_ENV.contains(&one.key.as_str()) && one.value.is_some() {
        return wrong(format!(
            "the platform gives each task a {} of its own; a variable of that name has no effect",
            one.key
        ));
    }
    if one
        .environment
        .as_deref()
        .is_some_and(|slug| !zectre_common::spec::valid_slug(slug))
    {
        return wrong("the environment is not a slug".into());
    }
    match &one.value {
        Some(value) if value.len() > ENV_BYTES_MAX => wrong(format!("at most {ENV_BYTES_MAX} bytes")),
        Some(value) if value.contains('\0') => wrong("a value can't contain a NUL byte".into()),
        _ => None,
    }
}

fn show(context: &Context, id: ApplicationId, row: variable::Row) -> Result<Variable, Error> {
    let value = if row.secret {
        None
    } else {
        let place = seal::place::variable(id, row.environment.as_deref(), &row.key);
        let opened = seal::open(&context.master_key, &place, &row.value)
            .map_err(|error| Error::Internal(format!("variable `{}` of {id}: {error}", row.key)))?;
        Some(opened.expose_secret().to_owned())
    };
    Ok(Variable {
        key: row.key,
        value,
        environment: row.environment,
        secret: row.secret,
        updated_at: row.updated_at,
    })
}
