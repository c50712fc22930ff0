//! Artifacts: announced here, kept by the registry.

use super::{gone, orgs::owner_named};
use crate::handler::routes;
use crate::{
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, invalid, invalid_field, refuse},
    identity::Actor,
    page::list_query,
    policy::{Policy, Reach, Thing},
    registry,
    store::{
        artifact,
        change::{About, Change},
        ownership,
    },
};
use axum::{
    body::{Body, HttpBody},
    extract::State,
    response::Response,
};
use http::{HeaderMap, StatusCode};
use zectre_common::{
    id::ArtifactId,
    spec::FieldError,
    state::{ArtifactKind, ArtifactState, Role},
    wire::{
        artifact::{Artifact, CreateArtifactRequest},
        page::Page,
    },
};
use zectre_service::extract::{Json, Path, Query};

list_query! {
    /// Of artifacts.
    ArtifactsQuery sorted by ArtifactSort { CreatedAt = "created_at", Name = "name", Size = "size" }
    largest first, filtered by {
        /// Only those of this kind.
        kind: ArtifactKind,
        /// Only those in this state.
        state: ArtifactState,
        /// Only those with this hash (lower-case hex).
        sha256: String,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Member(Role::Viewer), routes!(list)),
        endpoint(Policy::Member(Role::Developer), routes!(create)).creates(),
        endpoint(Policy::Owned(Role::Viewer, Thing::Artifact), routes!(get)),
        endpoint(Policy::Owned(Role::Developer, Thing::Artifact), routes!(delete)),
        endpoint(Policy::Owned(Role::Developer, Thing::Artifact), routes!(upload)).patient(),
        endpoint(Policy::Owned(Role::Viewer, Thing::Artifact), routes!(download)).patient(),
    ]
}

/// Artifacts of your organizations, newest first.
#[utoipa::path(get, path = "/artifacts", tag = "artifacts", params(ArtifactsQuery),
               responses((status = 200, description = "A page", body = Page<Artifact>)))]
async fn list(
    State(context): State<Context>,
    reach: Reach,
    Query(query): Query<ArtifactsQuery>,
) -> Result<Json<Page<Artifact>>, Error> {
    let window = query.window()?;
    let organizations = reach.organizations();
    let filter = artifact::Filter {
        reach: organizations.as_deref(),
        kind: query.kind,
        state: query.state,
        sha256: query.sha256.as_deref(),
    };
    let (rows, total) = artifact::list(&context.lists, &filter, &window).await?;
    Ok(Json(window.page(rows, total)))
}

/// Announces an artifact; its bytes are sent to `/artifacts/{id}/upload`.
#[utoipa::path(post, path = "/artifacts", tag = "artifacts", request_body = CreateArtifactRequest,
               responses((status = 201, description = "The artifact, without bytes yet", body = Artifact)))]
async fn create(
    State(context): State<Context>,
    reach: Reach,
    actor: Actor,
    Json(request): Json<CreateArtifactRequest>,
) -> Result<Response, Error> {
    let content_type = request
        .content_type
        .as_deref()
        .unwrap_or("application/octet-stream");
    let mut errors = Vec::new();
    if !valid_file_name(&request.name) {
        errors.push(FieldError::new(
            "name",
            "letters, digits, `.`, `-` and `_`, at most 128, not starting with `.`",
        ));
    }
    if !valid_media_type(content_type) {
        errors.push(FieldError::new(
            "content_type",
            "a media type such as `application/octet-stream`",
        ));
    }
    if !errors.is_empty() {
        return Err(invalid(errors));
    }
    let owner = owner_named(&context, &reach, request.organization.as_deref()).await?;
    let id = ArtifactId::new();
    let kind = request.kind.unwrap_or(ArtifactKind::Binary);
    let mut change = Change::begin(&context.pool, &actor).await?;
    artifact::insert(
        change.connection(),
        id,
        owner,
        &request.name,
        kind,
        content_type,
        actor.user_id,
    )
    .await?;
    change
        .event(
            "artifact.created",
            About::organization(owner),
            &format!("artifact `{}` was announced", request.name),
        )
        .await?;
    let artifact = artifact::get(change.connection(), id).await?;
    let artifact = artifact.ok_or_else(|| gone(Thing::Artifact, id))?;
    super::created(change, &format!("/artifacts/{id}"), artifact).await
}

/// An artifact.
#[utoipa::path(get, path = "/artifacts/{id}", tag = "artifacts", params(("id" = ArtifactId, Path, description = "Its id")),
               responses((status = 200, description = "The artifact", body = Artifact)))]
async fn get(State(context): State<Context>, Path(id): Path<ArtifactId>) -> Result<Json<Artifact>, Error> {
    Ok(Json(show(&context, id).await?))
}

/// Deletes an artifact that nothing refers to.
#[utoipa::path(delete, path = "/artifacts/{id}", tag = "artifacts", params(("id" = ArtifactId, Path, description = "Its id")),
               responses((status = 204, description = "Deleted")))]
async fn delete(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<ArtifactId>,
) -> Result<StatusCode, Error> {
    let owner = ownership::of_artifact(&context.pool, id).await?;
    let owner = owner.ok_or_else(|| gone(Thing::Artifact, id))?;
    let mut change = Change::begin(&context.pool, &actor).await?;
    if !artifact::delete(change.connection(), id).await? {
        return Err(refuse(
            &code::ARTIFACT_IN_USE,
            format!("a deployment or a build refers to artifact {id}"),
        ));
    }
    change
        .event(
            "artifact.deleted",
            About::organization(owner),
            &format!("artifact {id} was deleted"),
        )
        .await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends an artifact's bytes, once. With `Digest: sha-256=…` they are checked, and a mismatch is a 422.
#[utoipa::path(post, path = "/artifacts/{id}/upload", tag = "artifacts",
               params(("id" = ArtifactId, Path, description = "Its id"),
                      ("Digest" = Option<String>, Header, description = "`sha-256=` and the base64 of the hash")),
               request_body(content = String, content_type = "application/octet-stream", description = "The bytes"),
               responses((status = 200, description = "The artifact, ready", body = Artifact)))]
async fn upload(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<ArtifactId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Artifact>, Error> {
    let announced = show(&context, id).await?;
    if announced.state == ArtifactState::Ready {
        let detail = format!("artifact {id} was uploaded already; make a new one for other bytes");
        return Err(refuse(&code::ARTIFACT_IMMUTABLE, detail));
    }
    if body.is_end_stream() {
        let why = "it is empty; upload a program, or a bundle of one";
        return Err(invalid_field("body", why));
    }
    let owner = ownership::of_artifact(&context.pool, id).await?;
    let owner = owner.ok_or_else(|| gone(Thing::Artifact, id))?;
    let bytes_max = context.settings.artifact_bytes_max;
    let stored = registry::upload_of(&context, &actor, (owner, id), &headers, body, bytes_max).await?;
    // The registry has written the row; its answer stands should the row be read from before that.
    let artifact = show(&context, id).await?;
    let (size, sha256) = (Some(stored.size), Some(stored.sha256));
    Ok(Json(Artifact {
        state: ArtifactState::Ready,
        size,
        sha256,
        ..artifact
    }))
}

/// An artifact's bytes, or the ranges asked for.
#[utoipa::path(get, path = "/artifacts/{id}/download", tag = "artifacts",
               params(("id" = ArtifactId, Path, description = "Its id"),
                      ("Range" = Option<String>, Header, description = "Part of the bytes"),
                      ("If-None-Match" = Option<String>, Header, description = "The entity tag that is known")),
               responses((status = 200, description = "The bytes", content_type = "application/octet-stream"),
                         (status = 206, description = "Part of them", content_type = "application/octet-stream"),
                         (status = 304, description = "What is known is right")))]
async fn download(
    State(context): State<Context>,
    Path(id): Path<ArtifactId>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let artifact = show(&context, id).await?;
    if artifact.state != ArtifactState::Ready {
        return Err(refuse(
            &code::ARTIFACT_NOT_READY,
            format!("artifact {id} was not uploaded yet"),
        ));
    }
    registry::download(&context, id, &headers).await
}

async fn show(context: &Context, id: ArtifactId) -> Result<Artifact, Error> {
    artifact::get(&context.pool, id)
        .await?
        .ok_or_else(|| gone(Thing::Artifact, id))
}

fn valid_file_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=128).contains(&name.len()) && !name.starts_with('.') && name.chars().all(known)
}

fn valid_media_type(text: &str) -> bool {
    let token = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c))
    };
    text.len() <= 128
        && text
            .split_once('/')
            .is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_media_types_are_checked() {
        assert!(valid_file_name("hello-1.2_x86.bin") && valid_media_type("application/vnd.oci+gzip"));
        for bad in ["", ".hidden", "a/b", "..", "a b"] {
            assert!(!valid_file_name(bad), "{bad}");
        }
        for bad in ["", "text", "text/", "a/b/c", "text/plain; x", "text/\r\n"] {
            assert!(!valid_media_type(bad), "{bad}");
        }
    }
}
