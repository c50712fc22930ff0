//! Artifacts; their bytes, size, hash and state are the registry's.

use super::rows::{Lists, page, some};
use crate::{error::Error, page::Window};
use sqlx::{PgConnection, PgExecutor};
use zectre_common::{
    id::{ArtifactId, OrganizationId, UserId},
    state::{ArtifactKind, ArtifactState},
    time::Time,
    wire::artifact::Artifact,
};

struct Row {
    id: ArtifactId,
    organization: String,
    name: String,
    kind: ArtifactKind,
    content_type: String,
    state: ArtifactState,
    size_bytes: Option<i64>,
    sha256: Option<String>,
    created_at: Time,
}

impl From<Row> for Artifact {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            organization: row.organization,
            name: row.name,
            kind: row.kind,
            content_type: row.content_type,
            state: row.state,
            size: row.size_bytes.map(|bytes| bytes as u64),
            sha256: row.sha256,
            created_at: row.created_at,
        }
    }
}

macro_rules! artifacts {
    ($form:ident, $($rest:tt)*) => {
        $form!(
            Row,
            r#"t.id AS "id: ArtifactId", o.slug AS organization, t.name, t.kind AS "kind: ArtifactKind", t.content_type,
                  t.state AS "state: ArtifactState", t.size_bytes, t.sha256, t.created_at"#,
            "artifacts t JOIN organizations o ON o.id = t.organization_id WHERE ",
            $($rest)*
        )
    };
}

/// What a list may be narrowed to.
pub(crate) struct Filter<'a> {
    pub(crate) reach: Option<&'a [OrganizationId]>,
    pub(crate) kind: Option<ArtifactKind>,
    pub(crate) state: Option<ArtifactState>,
    pub(crate) sha256: Option<&'a str>,
}

/// Those that pass the filter.
pub(crate) async fn list(
    lists: &Lists,
    filter: &Filter<'_>,
    window: &Window,
) -> Result<(Vec<Artifact>, i64), Error> {
    let (kind, state) = (
        filter.kind.map(ArtifactKind::as_str),
        filter.state.map(ArtifactState::as_str),
    );
    let (rows, total) = artifacts!(
        page,
        "($1::uuid[] IS NULL OR t.organization_id = ANY($1)) AND ($2::text IS NULL OR t.kind = $2)
             AND ($3::text IS NULL OR t.state = $3) AND ($4::text IS NULL OR t.sha256 = $4)",
        [filter.reach as _, kind, state, filter.sha256],
        order "CASE WHEN $5 = 'name' AND NOT $6 THEN t.name END, CASE WHEN $5 = 'name' AND $6 THEN t.name END DESC,
                    CASE WHEN $5 = 'size' AND NOT $6 THEN t.size_bytes END,
                    CASE WHEN $5 = 'size' AND $6 THEN t.size_bytes END DESC NULLS LAST,
                    CASE WHEN NOT $6 THEN t.created_at END, CASE WHEN $6 THEN t.created_at END DESC, t.id
           LIMIT $7 OFFSET $8",
        [window.sort, window.descending],
        window,
        lists
    );
    Ok((rows.into_iter().map(Artifact::from).collect(), total))
}

/// By id.
pub(crate) async fn get(executor: impl PgExecutor<'_>, id: ArtifactId) -> Result<Option<Artifact>, Error> {
    Ok(artifacts!(some, "t.id = $1", id as _)
        .fetch_optional(executor)
        .await?
        .map(Artifact::from))
}

/// By id, when the organization owns it.
pub(crate) async fn get_owned(
    connection: &mut PgConnection,
    owner: OrganizationId,
    id: ArtifactId,
) -> Result<Option<Artifact>, Error> {
    let query = artifacts!(
        some,
        "t.organization_id = $1 AND t.id = $2 FOR SHARE OF t",
        owner as _,
        id as _
    );
    Ok(query.fetch_optional(connection).await?.map(Artifact::from))
}

/// Announces one.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    id: ArtifactId,
    owner: OrganizationId,
    name: &str,
    kind: ArtifactKind,
    content_type: &str,
    created_by: Option<UserId>,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO artifacts (id, organization_id, name, kind, content_type, created_by) VALUES ($1, $2, $3, $4, $5, $6)",
        id as _,
        owner as _,
        name,
        kind.as_str(),
        content_type,
        created_by as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes one unless a deployment or a build refers to it; whether it did.
pub(crate) async fn delete(connection: &mut PgConnection, id: ArtifactId) -> Result<bool, Error> {
    let deleted = sqlx::query!("DELETE FROM artifacts WHERE id = $1", id as _)
        .execute(connection)
        .await;
    match deleted {
        Ok(_) => Ok(true),
        Err(sqlx::Error::Database(database)) if database.is_foreign_key_violation() => Ok(false),
        Err(error) => Err(error.into()),
    }
}
