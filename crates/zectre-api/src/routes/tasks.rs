//! Tasks.

use super::{accepted, gone};
use crate::handler::routes;
use crate::{
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, refuse},
    identity::Actor,
    page::list_query,
    policy::{Policy, Reach, Thing},
    scheduler,
    store::{
        change::{About, Change},
        task,
    },
};
use axum::{extract::State, response::Response};
use zectre_common::{
    id::{ApplicationId, DeploymentId, NodeId, TaskId},
    state::{OperationKind, Role, TaskState},
    wire::{page::Page, task::Task},
};
use zectre_service::extract::{Json, Path, Query};

list_query! {
    /// Of tasks.
    TasksQuery sorted by TaskSort { CreatedAt = "created_at", Slot = "slot" } largest first, filtered by {
        /// Only those of this application.
        application_id: ApplicationId,
        /// Only those of this deployment.
        deployment_id: DeploymentId,
        /// Only those on this node.
        node_id: NodeId,
        /// Only those in this state.
        state: TaskState,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Member(Role::Viewer), routes!(list)),
        endpoint(Policy::Owned(Role::Viewer, Thing::Task), routes!(get)),
        endpoint(Policy::Owned(Role::Developer, Thing::Task), routes!(stop)),
    ]
}

/// Tasks of your applications, newest first, those that ended too.
#[utoipa::path(get, path = "/tasks", tag = "tasks", params(TasksQuery),
               responses((status = 200, description = "A page", body = Page<Task>)))]
async fn list(
    State(context): State<Context>,
    reach: Reach,
    Query(query): Query<TasksQuery>,
) -> Result<Json<Page<Task>>, Error> {
    let window = query.window()?;
    let organizations = reach.organizations();
    let filter = task::Filter {
        reach: organizations.as_deref(),
        application_id: query.application_id,
        deployment_id: query.deployment_id,
        node_id: query.node_id,
        state: query.state,
    };
    let (rows, total) = task::list(&context.lists, &filter, &window).await?;
    Ok(Json(window.page(rows, total)))
}

/// A task.
#[utoipa::path(get, path = "/tasks/{id}", tag = "tasks", params(("id" = TaskId, Path, description = "Its id")),
               responses((status = 200, description = "The task", body = Task)))]
async fn get(State(context): State<Context>, Path(id): Path<TaskId>) -> Result<Json<Task>, Error> {
    Ok(Json(
        task::get(&context.pool, id)
            .await?
            .ok_or_else(|| gone(Thing::Task, id))?,
    ))
}

/// Stops a task; it is replaced while its deployment wants it.
#[utoipa::path(post, path = "/tasks/{id}/stop", tag = "tasks", params(("id" = TaskId, Path, description = "Its id")),
               responses((status = 202, description = "Written down", body = Task)))]
async fn stop(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<TaskId>,
) -> Result<Response, Error> {
    let mut change = Change::begin(&context.pool, &actor).await?;
    let task = task::get(change.connection(), id)
        .await?
        .ok_or_else(|| gone(Thing::Task, id))?;
    if task.state.is_ended() {
        return Err(refuse(
            &code::TASK_FINISHED,
            format!("task {id} has ended: {}", task.state),
        ));
    }
    let about = About {
        task_id: Some(id),
        ..About::deployment(task.application_id, task.deployment_id)
    };
    change.operation(OperationKind::StopTask, about).await?;
    change
        .event(
            "task.stop_requested",
            about,
            &format!("the task of slot {} is stopped", task.slot),
        )
        .await?;
    change.commit().await?;
    scheduler::nudge(&context, Some(task.deployment_id)).await;
    Ok(accepted(task))
}
