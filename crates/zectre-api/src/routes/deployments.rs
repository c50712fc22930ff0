//! Deployments: reading them, and what people ask of them.

use super::{accepted, gone};
use crate::handler::routes;
use crate::{
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, invalid_field, refuse},
    identity::Actor,
    page::list_query,
    policy::{Policy, Thing},
    quota::{Resource, Watch},
    scheduler,
    store::{
        app,
        change::{About, Change},
        deployment::{self, Place, Standing},
        task,
    },
};
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use zectre_common::{
    id::{ApplicationId, DeploymentId},
    spec::{REPLICAS_MAX, range_in_words},
    state::{DeploymentStatus, OperationKind, Role, TaskState},
    wire::{
        deployment::{Deployment, UpdateDeploymentRequest, WakeResponse},
        page::Page,
        task::Task,
    },
};
use zectre_service::{
    extract::{Json, Path, Query},
    token::name,
};

/// The longest idle time-out, in seconds: a week, as in the spec.
const IDLE_TIMEOUT_SECS_MAX: u32 = 7 * 24 * 3_600;

list_query! {
    /// Of deployments.
    DeploymentsQuery sorted by DeploymentSort { Version = "version", CreatedAt = "created_at" } largest first, filtered by {
        /// Only those of this environment.
        environment: String,
        /// Only those with this status.
        status: DeploymentStatus,
    }
}

list_query! {
    /// Of a deployment's tasks.
    DeploymentTasksQuery sorted by DeploymentTaskSort { CreatedAt = "created_at", Slot = "slot" } largest first, filtered by {
        /// Only those in this state.
        state: TaskState,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    let (viewer, developer) = (Role::Viewer, Role::Developer);
    vec![
        endpoint(Policy::Owned(viewer, Thing::App), routes!(list)),
        endpoint(Policy::Owned(viewer, Thing::Deployment), routes!(get)),
        endpoint(Policy::Owned(developer, Thing::Deployment), routes!(update)),
        endpoint(Policy::Owned(developer, Thing::Deployment), routes!(promote)),
        endpoint(Policy::Owned(developer, Thing::Deployment), routes!(cancel)),
        endpoint(Policy::Owned(developer, Thing::Deployment), routes!(rollback)),
        endpoint(Policy::Owned(developer, Thing::Deployment), routes!(restart)),
        endpoint(Policy::Owned(developer, Thing::Deployment), routes!(sleep)),
        endpoint(
            Policy::OwnedOrService(developer, Thing::Deployment, &[name::PROXY]),
            routes!(wake),
        )
        .patient(),
        endpoint(Policy::Owned(viewer, Thing::Deployment), routes!(tasks)),
    ]
}

/// An application's deployments, newest first.
#[utoipa::path(get, path = "/apps/{id}/deployments", tag = "deployments",
               params(("id" = ApplicationId, Path, description = "The application's id"), DeploymentsQuery),
               responses((status = 200, description = "A page", body = Page<Deployment>)))]
async fn list(
    State(context): State<Context>,
    Path(id): Path<ApplicationId>,
    Query(query): Query<DeploymentsQuery>,
) -> Result<Json<Page<Deployment>>, Error> {
    let window = query.window()?;
    let (rows, total) = deployment::list(
        &context.lists,
        id,
        query.environment.as_deref(),
        query.status,
        &window,
    )
    .await?;
    Ok(Json(
        window.page(
            rows.into_iter()
                .map(|row| row.into_deployment(&context.urls))
                .collect(),
            total,
        ),
    ))
}

/// A deployment.
#[utoipa::path(get, path = "/deployments/{id}", tag = "deployments", params(("id" = DeploymentId, Path, description = "Its id")),
               responses((status = 200, description = "The deployment", body = Deployment)))]
async fn get(
    State(context): State<Context>,
    Path(id): Path<DeploymentId>,
) -> Result<Json<Deployment>, Error> {
    Ok(Json(show(&context, id).await?))
}

/// Scales a deployment, or changes how it sleeps.
#[utoipa::path(patch, path = "/deployments/{id}", tag = "deployments", params(("id" = DeploymentId, Path, description = "Its id")),
               request_body = UpdateDeploymentRequest,
               responses((status = 200, description = "The deployment", body = Deployment)))]
async fn update(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<DeploymentId>,
    Json(request): Json<UpdateDeploymentRequest>,
) -> Result<Json<Deployment>, Error> {
    if request.replicas.is_some_and(|replicas| replicas > REPLICAS_MAX) {
        return Err(invalid_field("replicas", range_in_words(&(0..=REPLICAS_MAX))));
    }
    if request
        .idle_timeout_secs
        .is_some_and(|secs| secs > IDLE_TIMEOUT_SECS_MAX)
    {
        return Err(invalid_field(
            "idle_timeout_secs",
            format!("at most {IDLE_TIMEOUT_SECS_MAX} seconds"),
        ));
    }
    if request == UpdateDeploymentRequest::default() {
        return Ok(Json(show(&context, id).await?));
    }
    let mut change = Change::begin(&context.pool, &actor).await?;
    let place = hold_application(&mut change, id).await?;
    let watch = match request.replicas {
        Some(_) => watch_work(&context, &mut change, &place).await?,
        None => None,
    };
    let standing = lock(&mut change, id).await?;
    if let Some(refusal) = unless_usable(&standing) {
        return Err(refusal);
    }
    if standing.is_job && request.replicas.is_some() {
        return Err(invalid_field(
            "replicas",
            "it runs to completion, as often as it was deployed for; `cancel` ends it, and another deployment runs it again",
        ));
    }
    let about = About::deployment(place.application_id, id);
    deployment::update(change.connection(), id, request).await?;
    if let Some(watch) = watch {
        watch.check(&mut change).await?;
    }
    // It has none already: whoever wants none of it now means what a request has woken.
    let kind = match (request.replicas, standing.replicas) {
        (Some(0), 0) => OperationKind::Sleep,
        _ => OperationKind::Reconcile,
    };
    change.operation(kind, about).await?;
    let message = match request.replicas {
        Some(replicas) => format!("version {} is scaled to {replicas}", standing.version),
        None => format!("version {} sleeps differently", standing.version),
    };
    change.event("deployment.updated", about, &message).await?;
    change.commit().await?;
    scheduler::nudge(&context, Some(id)).await;
    Ok(Json(show(&context, id).await?))
}

/// What one of the actions below needs and does.
struct Action {
    kind: OperationKind,
    event: &'static str,
    says: &'static str,
    refuses: fn(&Standing) -> Option<Error>,
}

async fn act(context: &Context, actor: &Actor, id: DeploymentId, action: Action) -> Result<Response, Error> {
    write_down(context, actor, id, action).await?;
    Ok(accepted(show(context, id).await?))
}

async fn write_down(context: &Context, actor: &Actor, id: DeploymentId, action: Action) -> Result<(), Error> {
    let mut change = Change::begin(&context.pool, actor).await?;
    let place = hold_application(&mut change, id).await?;
    // Of requests that came at once, by as many proxies, one is written down.
    let is_request = action.kind == OperationKind::Wake && is_of_a_request(actor);
    if is_request && !deployment::wakes_beside(change.connection(), id).await? {
        return Ok(());
    }
    let brings_back = matches!(
        action.kind,
        OperationKind::Promote | OperationKind::Rollback | OperationKind::Wake
    );
    let watch = if brings_back {
        watch_work(context, &mut change, &place).await?
    } else {
        None
    };
    let standing = lock(&mut change, id).await?;
    if let Some(refusal) = (action.refuses)(&standing) {
        return Err(refusal);
    }
    let about = About::deployment(place.application_id, id);
    change.operation(action.kind, about).await?;
    if let Some(watch) = watch {
        watch.check(&mut change).await?;
    }
    change
        .event(
            action.event,
            about,
            &format!("version {} {}", standing.version, action.says),
        )
        .await?;
    change.commit().await?;
    scheduler::nudge(context, Some(id)).await;
    Ok(())
}

/// Nobody asks by name: a proxy holds a request.
fn is_of_a_request(actor: &Actor) -> bool {
    actor.name == name::PROXY
}

/// Holds the deployment's application, so that neither that nor the environment is deleted meanwhile.
async fn hold_application(change: &mut Change<'_>, id: DeploymentId) -> Result<Place, Error> {
    let unknown = || gone(Thing::Deployment, id);
    let place = deployment::place(change.connection(), id).await?;
    let place = place.ok_or_else(unknown)?;
    let application = app::lock(change.connection(), place.application_id).await?;
    application.map(|_| place).ok_or_else(unknown)
}

/// Watches what the organization's tasks reserve, in a change of one of its deployments.
async fn watch_work(
    context: &Context,
    change: &mut Change<'_>,
    place: &Place,
) -> Result<Option<Watch>, Error> {
    let quotas = &context.settings.quotas;
    Watch::begin(change, quotas, place.organization_id, Resource::Work).await
}

async fn lock(change: &mut Change<'_>, id: DeploymentId) -> Result<Standing, Error> {
    let standing = deployment::lock(change.connection(), id).await?;
    standing.ok_or_else(|| gone(Thing::Deployment, id))
}

/// The same for what only a server does.
fn unless_serving(standing: &Standing) -> Option<Error> {
    unless_usable(standing).or_else(|| {
        standing.is_job.then(|| {
            let detail = format!(
                "version {} runs to completion, once: deploy again to run it again",
                standing.version
            );
            refuse(&code::DEPLOYMENT_NOT_USABLE, detail)
        })
    })
}

fn unless_usable(standing: &Standing) -> Option<Error> {
    let unusable = matches!(
        standing.status,
        DeploymentStatus::Failed | DeploymentStatus::Cancelled
    );
    unusable.then(|| {
        let detail = format!(
            "the rollout of version {} ended as {}; deploy again",
            standing.version, standing.status
        );
        refuse(&code::DEPLOYMENT_NOT_USABLE, detail)
    })
}

/// Makes a deployment current now: ends a canary, or brings a superseded version back.
#[utoipa::path(post, path = "/deployments/{id}/promote", tag = "deployments", params(("id" = DeploymentId, Path, description = "Its id")),
               responses((status = 202, description = "Written down", body = Deployment)))]
async fn promote(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<DeploymentId>,
) -> Result<Response, Error> {
    let action = Action {
        kind: OperationKind::Promote,
        event: "deployment.promote_requested",
        says: "is promoted",
        refuses: unless_serving,
    };
    act(&context, &actor, id, action).await
}

/// Gives up the rollout of a deployment; what serves goes on serving.
#[utoipa::path(post, path = "/deployments/{id}/cancel", tag = "deployments", params(("id" = DeploymentId, Path, description = "Its id")),
               responses((status = 202, description = "Written down", body = Deployment)))]
async fn cancel(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<DeploymentId>,
) -> Result<Response, Error> {
    let action = Action {
        kind: OperationKind::Cancel,
        event: "deployment.cancel_requested",
        says: "is cancelled",
        refuses: |standing| {
            standing.status.is_ended().then(|| {
                let detail = format!(
                    "the rollout of version {} has ended: {}",
                    standing.version, standing.status
                );
                refuse(&code::DEPLOYMENT_FINISHED, detail)
            })
        },
    };
    act(&context, &actor, id, action).await
}

/// Gives the deployment's environment back to the version that served before it.
#[utoipa::path(post, path = "/deployments/{id}/rollback", tag = "deployments", params(("id" = DeploymentId, Path, description = "Its id")),
               responses((status = 202, description = "Written down", body = Deployment)))]
async fn rollback(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<DeploymentId>,
) -> Result<Response, Error> {
    let action = Action {
        kind: OperationKind::Rollback,
        event: "deployment.rollback_requested",
        says: "is rolled back",
        refuses: |standing| {
            let serves = standing.current || standing.target;
            let nothing = !serves || (standing.current && standing.previous_deployment_id.is_none());
            nothing.then(|| {
                let detail = if serves {
                    format!("no version served before version {}", standing.version)
                } else {
                    format!(
                        "version {} does not serve its environment, so there is nothing to roll back",
                        standing.version
                    )
                };
                refuse(&code::NOTHING_TO_ROLL_BACK_TO, detail)
            })
        },
    };
    act(&context, &actor, id, action).await
}

/// Replaces the tasks of a deployment one by one.
#[utoipa::path(post, path = "/deployments/{id}/restart", tag = "deployments", params(("id" = DeploymentId, Path, description = "Its id")),
               responses((status = 202, description = "Written down", body = Deployment)))]
async fn restart(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<DeploymentId>,
) -> Result<Response, Error> {
    let action = Action {
        kind: OperationKind::Restart,
        event: "deployment.restart_requested",
        says: "is restarted",
        refuses: unless_serving,
    };
    act(&context, &actor, id, action).await
}

/// Puts a deployment to sleep; the next request wakes it.
#[utoipa::path(post, path = "/deployments/{id}/sleep", tag = "deployments", params(("id" = DeploymentId, Path, description = "Its id")),
               responses((status = 202, description = "Written down", body = Deployment)))]
async fn sleep(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<DeploymentId>,
) -> Result<Response, Error> {
    let action = Action {
        kind: OperationKind::Sleep,
        event: "deployment.sleep_requested",
        says: "is put to sleep",
        refuses: |standing| {
            let is_rolling = !standing.status.is_ended() && !standing.current;
            unless_serving(standing).or_else(|| {
                is_rolling.then(|| {
                    let detail = format!(
                        "version {} is still being rolled out; wait for its end, or cancel it",
                        standing.version
                    );
                    refuse(&code::DEPLOYMENT_NOT_USABLE, detail)
                })
            })
        },
    };
    act(&context, &actor, id, action).await
}

/// What a wake waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum WakeWait {
    /// A ready task.
    Ready,
}

/// How to wake.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WakeQuery {
    /// `ready` answers once a task is ready, with its address.
    #[param(inline)]
    wait: Option<WakeWait>,
}

/// Wakes a deployment.
///
/// One wake runs however many ask. With `?wait=ready` the answer names the ready tasks; a wake that fails is a 503
/// with the reason as its code.
#[utoipa::path(post, path = "/deployments/{id}/wake", tag = "deployments",
               params(("id" = DeploymentId, Path, description = "Its id"), WakeQuery),
               responses((status = 200, description = "Ready tasks", body = WakeResponse),
                         (status = 202, description = "Being woken", body = WakeResponse)))]
async fn wake(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<DeploymentId>,
    Query(query): Query<WakeQuery>,
) -> Result<Response, Error> {
    // What a request does by the proxy may be switched off; what a person asks for is done, and kept. So is the wake of a
    // superseded version, whoever asks: it takes nobody's place, and counts from now on. It is kept once until a scheduler has seen
    // it: visitors who come while none leads, again and again, leave no row each.
    let is_asked = !is_of_a_request(&actor);
    if is_asked || deployment::wakes_beside(&context.pool, id).await? {
        let action = Action {
            kind: OperationKind::Wake,
            event: "deployment.wake_requested",
            says: "is woken",
            refuses: unless_serving,
        };
        write_down(&context, &actor, id, action).await?;
    }
    if query.wait.is_none() {
        let woken = if is_asked {
            WakeResponse::default()
        } else {
            scheduler::wake(&context, id).await?
        };
        return Ok(accepted(woken));
    }
    let woken = scheduler::wake_and_wait(&context, id).await?;
    Ok((StatusCode::OK, axum::Json(woken)).into_response())
}

/// A deployment's tasks, those that ended too.
#[utoipa::path(get, path = "/deployments/{id}/tasks", tag = "deployments",
               params(("id" = DeploymentId, Path, description = "Its id"), DeploymentTasksQuery),
               responses((status = 200, description = "A page", body = Page<Task>)))]
async fn tasks(
    State(context): State<Context>,
    Path(id): Path<DeploymentId>,
    Query(query): Query<DeploymentTasksQuery>,
) -> Result<Json<Page<Task>>, Error> {
    let window = query.window()?;
    // Whose deployment it is has been decided: no second filter.
    let filter = task::Filter {
        reach: None,
        application_id: None,
        deployment_id: Some(id),
        node_id: None,
        state: query.state,
    };
    let (rows, total) = task::list(&context.lists, &filter, &window).await?;
    Ok(Json(window.page(rows, total)))
}

async fn show(context: &Context, id: DeploymentId) -> Result<Deployment, Error> {
    let row = deployment::get(&context.pool, id)
        .await?
        .ok_or_else(|| gone(Thing::Deployment, id))?;
    Ok(row.into_deployment(&context.urls))
}
