//! Builds: a source archive in, an artifact out.

use super::{accepted, gone};
use crate::handler::routes;
use crate::{
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, invalid_field, refuse},
    fanout::Hint,
    identity::Actor,
    page::list_query,
    policy::{Policy, Reach, Standing, Thing},
    quota, registry, scheduler,
    sse::{self, BATCH_ROWS, Batch, Feed},
    store::{
        app, artifact, build,
        change::{About, Change},
        ownership, source,
    },
};
use axum::{
    body::{Body, HttpBody, to_bytes},
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header};
use serde::Deserialize;
use sqlx::{PgConnection, PgPool};
use std::time::Duration;
use utoipa::IntoParams;
use zectre_common::{
    git,
    id::{ApplicationId, ArtifactId, BuildId},
    state::{ArtifactKind, BuildStatus, OperationKind, Role},
    wire::{
        build::{Build, BuildFromGitRequest},
        event::who,
        log::LogLine,
        page::Page,
    },
};
use zectre_service::{
    extract::{Json, Path, Query, too_large},
    token::name,
};

/// A nudge that takes longer is given up: workers also look by themselves.
const NUDGE_DEADLINE: Duration = Duration::from_secs(2);
const LINES_MAX: u32 = 1_000;
const ARCHIVE_TYPES: [&str; 5] = [
    "application/gzip",
    "application/x-gzip",
    "application/x-tar",
    "application/tar+gzip",
    "application/octet-stream",
];

list_query! {
    /// Of builds.
    BuildsQuery sorted by BuildSort { CreatedAt = "created_at" } largest first, filtered by {
        /// Only those of this application.
        application_id: ApplicationId,
        /// Only those with this status.
        status: BuildStatus,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Owned(Role::Developer, Thing::App), routes!(create))
            .creates()
            .patient(),
        endpoint(Policy::Member(Role::Viewer), routes!(list)),
        endpoint(Policy::Owned(Role::Viewer, Thing::Build), routes!(get)),
        endpoint(Policy::Owned(Role::Developer, Thing::Build), routes!(cancel)),
        endpoint(Policy::Owned(Role::Viewer, Thing::Build), routes!(logs)),
        endpoint(Policy::Owned(Role::Viewer, Thing::Build), routes!(logs_stream)).streams(),
    ]
}

/// Builds an application from a tar archive (gzip or plain) of its sources, or, asked in JSON, from its repository.
#[utoipa::path(post, path = "/apps/{id}/builds", tag = "builds",
               params(("id" = ApplicationId, Path, description = "The application's id")),
               request_body(content((String = "application/gzip"), (BuildFromGitRequest = "application/json")),
                            description = "The archive, or which commit"),
               responses((status = 201, description = "The build, queued", body = Build)))]
async fn create(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<ApplicationId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    if media_type(&headers) == "application/json" {
        return from_git(&context, &actor, id, body).await;
    }
    check_archive(&headers, &body)?;
    // Before anything is sent on; and again below, with the application held.
    check_open(&mut *context.pool.acquire().await?, id).await?;
    let app = app::get(&context.pool, id)
        .await?
        .ok_or_else(|| gone(Thing::App, id))?
        .into_app(&context.urls);
    let owner = ownership::of_app(&context.pool, id)
        .await?
        .ok_or_else(|| gone(Thing::App, id))?;
    let source = ArtifactId::new();
    let mut announced = Change::begin(&context.pool, &actor).await?;
    let file = format!("{}-source.tar.gz", app.name);
    let (kind, media_type) = (ArtifactKind::Source, "application/gzip");
    artifact::insert(
        announced.connection(),
        source,
        owner,
        &file,
        kind,
        media_type,
        actor.user_id,
    )
    .await?;
    announced.commit().await?;
    // Should this end half-way, housekeeping removes the announced artifact.
    let bytes_max = context.settings.source_bytes_max;
    registry::upload_of(&context, &actor, (owner, source), &headers, body, bytes_max).await?;
    let build_id = BuildId::new();
    let mut change = Change::begin(&context.pool, &actor).await?;
    app::lock(change.connection(), id)
        .await?
        .ok_or_else(|| gone(Thing::App, id))?;
    check_open(change.connection(), id).await?;
    build::insert(change.connection(), build_id, id, source, actor.user_id).await?;
    change
        .event(
            "build.queued",
            About::app(id),
            &format!("a build of `{}` is queued", app.name),
        )
        .await?;
    let build = build::get(change.connection(), build_id)
        .await?
        .ok_or_else(|| gone(Thing::Build, build_id))?;
    let answer = super::created(change, &format!("/builds/{build_id}"), build).await?;
    nudge(&context, "/api/v1/builds", build_id).await;
    Ok(answer)
}

/// Refuses one more build of an application that has as many under way as it may. Workers take organizations in turn, so
/// this bounds what waits, and not how soon others are served.
pub(crate) async fn check_open(connection: &mut PgConnection, id: ApplicationId) -> Result<(), Error> {
    if build::open(connection, id).await? < build::OPEN_MAX {
        return Ok(());
    }
    let detail = format!(
        "{} builds of the application wait or are under way, which is as many as there may be; wait until one has ended, or cancel one",
        build::OPEN_MAX
    );
    Err(refuse(&code::TOO_MANY_BUILDS, detail))
}

async fn from_git(
    context: &Context,
    actor: &Actor,
    id: ApplicationId,
    body: Body,
) -> Result<Response, Error> {
    // Nobody else bounds it: an archive may take as long as it needs.
    let read = to_bytes(body, context.settings.body_bytes_max);
    let Ok(read) = tokio::time::timeout(context.settings.request_timeout, read).await else {
        let detail = "the body did not come to its end in time; send it again";
        return Err(refuse(&code::INVALID_BODY, detail));
    };
    let Ok(bytes) = read else {
        return Ok(too_large().into_response());
    };
    let request: BuildFromGitRequest = match bytes.trim_ascii() {
        [] => BuildFromGitRequest::default(),
        // The derived reader would take a list for the fields in their order.
        [first, ..] if *first != b'{' => return Err(invalid_field("body", "an object, such as {}")),
        json => serde_json::from_slice(json).map_err(|error| invalid_field("body", error.to_string()))?,
    };
    let reference = request.git_ref.as_deref().unwrap_or("HEAD");
    if !git::is_ref(reference) {
        return Err(invalid_field("git_ref", "a branch, a tag or a commit"));
    }
    let build_id = BuildId::new();
    let mut change = Change::begin(&context.pool, actor).await?;
    let app = app::lock(change.connection(), id)
        .await?
        .ok_or_else(|| gone(Thing::App, id))?;
    let source = source::get(change.connection(), id).await?.ok_or_else(|| {
        let detail = "the application has no connected repository: set one with PUT /apps/{id}/source, or send a tar archive of its sources as the body";
        refuse(&code::SOURCE_NOT_CONNECTED, detail)
    })?;
    let owner = ownership::of_app(&context.pool, id)
        .await?
        .ok_or_else(|| gone(Thing::App, id))?;
    check_open(change.connection(), id).await?;
    quota::check_room_to_build(&mut change, &context.settings.quotas, owner).await?;
    let git = build::Git {
        repository: &source.repository,
        reference,
        root_dir: &source.root_dir,
    };
    build::insert_git(change.connection(), build_id, id, &git, actor.user_id).await?;
    let message = format!("a build of `{}` from `{reference}` is queued", app.name);
    change.event("build.queued", About::app(id), &message).await?;
    let build = build::get(change.connection(), build_id)
        .await?
        .ok_or_else(|| gone(Thing::Build, build_id))?;
    let answer = super::created(change, &format!("/builds/{build_id}"), build).await?;
    nudge(context, "/api/v1/builds", build_id).await;
    Ok(answer)
}

fn media_type(headers: &HeaderMap) -> String {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    kind.split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// Whether the body is an archive, as far as its sender says: it may be large, and is streamed.
pub(crate) fn is_archive(headers: &HeaderMap) -> bool {
    ARCHIVE_TYPES.contains(&media_type(headers).as_str())
}

fn check_archive(headers: &HeaderMap, body: &Body) -> Result<(), Error> {
    if !is_archive(headers) {
        let detail = format!(
            "send the archive with a Content-Type of {}",
            ARCHIVE_TYPES.join(", ")
        );
        return Err(refuse(&code::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    if body.is_end_stream() {
        return Err(invalid_field("body", "the archive is empty"));
    }
    Ok(())
}

pub(crate) async fn nudge(context: &Context, path: &str, id: BuildId) {
    let url = format!("{}{path}", context.urls.build);
    let body = serde_json::json!({ "build_id": id });
    let answer: Result<serde_json::Value, _> = context
        .caller
        .post_json(&url, name::BUILD, &body, NUDGE_DEADLINE)
        .await;
    if let Err(error) = answer {
        tracing::warn!(%error, "the build service was not nudged; it will look by itself");
    }
}

/// Builds of your applications, newest first.
#[utoipa::path(get, path = "/builds", tag = "builds", params(BuildsQuery),
               responses((status = 200, description = "A page", body = Page<Build>)))]
async fn list(
    State(context): State<Context>,
    reach: Reach,
    Query(query): Query<BuildsQuery>,
) -> Result<Json<Page<Build>>, Error> {
    let window = query.window()?;
    let organizations = reach.organizations();
    let (rows, total) = build::list(
        &context.lists,
        organizations.as_deref(),
        query.application_id,
        query.status,
        &window,
    )
    .await?;
    Ok(Json(window.page(rows, total)))
}

/// A build.
#[utoipa::path(get, path = "/builds/{id}", tag = "builds", params(("id" = BuildId, Path, description = "Its id")),
               responses((status = 200, description = "The build", body = Build)))]
async fn get(State(context): State<Context>, Path(id): Path<BuildId>) -> Result<Json<Build>, Error> {
    Ok(Json(
        build::get(&context.pool, id)
            .await?
            .ok_or_else(|| gone(Thing::Build, id))?,
    ))
}

/// Cancels a build that has not ended; deployments that wait for it fail.
#[utoipa::path(post, path = "/builds/{id}/cancel", tag = "builds", params(("id" = BuildId, Path, description = "Its id")),
               responses((status = 202, description = "Written down", body = Build)))]
async fn cancel(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<BuildId>,
) -> Result<Response, Error> {
    let build = build::get(&context.pool, id)
        .await?
        .ok_or_else(|| gone(Thing::Build, id))?;
    let mut change = Change::begin(&context.pool, &actor).await?;
    let why = format!("{} cancelled it", who(&actor.name));
    if !build::cancel(change.connection(), id, &why).await? {
        return Err(refuse(
            &code::BUILD_FINISHED,
            format!("build {id} has ended: {}", build.status),
        ));
    }
    for waiting in build::waiting_deployments(change.connection(), id).await? {
        change
            .operation(
                OperationKind::Reconcile,
                About::deployment(build.application_id, waiting),
            )
            .await?;
    }
    change
        .event(
            "build.cancel_requested",
            About::app(build.application_id),
            "a build is cancelled",
        )
        .await?;
    change.commit().await?;
    nudge(&context, &format!("/api/v1/builds/{id}/cancel"), id).await;
    scheduler::nudge(&context, None).await;
    Ok(accepted(
        build::get(&context.pool, id)
            .await?
            .ok_or_else(|| gone(Thing::Build, id))?,
    ))
}

/// Which lines.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct BuildLinesQuery {
    /// Only lines after this sequence number.
    after: Option<u64>,
    /// At most so many, from 1 to 1,000; default 1,000.
    limit: Option<u32>,
}

/// Lines of a build's log, oldest first.
#[utoipa::path(get, path = "/builds/{id}/logs", tag = "builds",
               params(("id" = BuildId, Path, description = "Its id"), BuildLinesQuery),
               responses((status = 200, description = "Lines", body = Vec<LogLine>)))]
async fn logs(
    State(context): State<Context>,
    Path(id): Path<BuildId>,
    Query(query): Query<BuildLinesQuery>,
) -> Result<Json<Vec<LogLine>>, Error> {
    let limit = query.limit.unwrap_or(LINES_MAX);
    if !(1..=LINES_MAX).contains(&limit) {
        return Err(invalid_field("limit", format!("from 1 to {LINES_MAX}")));
    }
    let after = i64::try_from(query.after.unwrap_or(0));
    let after = after.map_err(|_| invalid_field("after", "no sequence number is that large"))?;
    Ok(Json(build::log(&context.pool, id, after, limit.into()).await?))
}

/// A build's log as Server-Sent Events named `line`, until it has ended (event `end`, with the build).
#[utoipa::path(get, path = "/builds/{id}/logs/stream", tag = "builds",
               params(("id" = BuildId, Path, description = "Its id"),
                      ("Last-Event-ID" = Option<String>, Header, description = "Resumes after this event")),
               responses((status = 200, description = "Events `line`, each a LogLine, then `end`, a Build; `refused`, a Problem, ends it where the caller may not see it any more", content_type = "text/event-stream")))]
async fn logs_stream(
    State(context): State<Context>,
    standing: Standing,
    Path(id): Path<BuildId>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let after = sse::last_event_id(&headers)?.unwrap_or(0);
    sse::stream(
        &context,
        standing,
        LogFeed {
            pool: context.pool.clone(),
            id,
            after,
        },
    )
}

struct LogFeed {
    pool: PgPool,
    id: BuildId,
    after: i64,
}

impl Feed for LogFeed {
    async fn look(&mut self) -> Result<Batch, Error> {
        // Asked before reading: a worker stores its last line before it ends the build.
        let build = build::get(&self.pool, self.id).await?;
        let lines = build::log(&self.pool, self.id, self.after, BATCH_ROWS).await?;
        if let Some(last) = lines.last() {
            self.after = last.seq as i64;
        }
        let ended =
            build.as_ref().is_none_or(|build| build.status.is_ended()) && (lines.len() as i64) < BATCH_ROWS;
        let mut events = lines
            .iter()
            .map(|line| sse::json_event(Some(line.seq.to_string()), "line", line))
            .collect::<Result<Vec<_>, _>>()?;
        if ended {
            events.push(sse::json_event(None, "end", &build)?);
        }
        Ok(Batch { events, ended })
    }

    fn concerns(&self, hint: Hint) -> bool {
        hint == Hint::About(self.id.get())
    }
}
