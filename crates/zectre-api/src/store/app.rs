//! Applications.

use super::{
    custom_domain, is_duplicate,
    rows::{Lists, page_with_total, some_without_total},
};
use crate::{error::Error, page::Window, urls::Urls};
use sqlx::{PgConnection, PgExecutor, PgPool, types::Json};
use zectre_common::{
    id::{ApplicationId, NamespaceId, OrganizationId},
    spec::{DeploymentRequest, Labels},
    time::Time,
    wire::app::{App, CreateAppRequest, UpdateAppRequest},
};

/// As stored.
pub(crate) struct Row {
    id: ApplicationId,
    name: String,
    namespace: String,
    subdomain: String,
    description: String,
    labels: Json<Labels>,
    default_deployment_spec: Json<DeploymentRequest>,
    created_at: Time,
    updated_at: Time,
    /// How many its list has in all, where it is of one.
    total: Option<i64>,
}

impl Row {
    /// As shown.
    pub(crate) fn into_app(self, urls: &Urls) -> App {
        App {
            id: self.id,
            name: self.name,
            namespace: self.namespace,
            url: urls.of_label(&self.subdomain),
            subdomain: self.subdomain,
            description: self.description,
            labels: self.labels.0,
            default_deployment_spec: self.default_deployment_spec.0,
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }
}

macro_rules! apps {
    ($form:ident, $($rest:tt)*) => {
        $form!(
            Row,
            r#"a.id AS "id: ApplicationId", a.name, n.name AS namespace, a.subdomain, a.description,
                  a.labels AS "labels: Json<Labels>",
                  a.default_deployment_spec AS "default_deployment_spec: Json<DeploymentRequest>",
                  a.created_at, a.updated_at"#,
            r#"applications a JOIN namespaces n ON n.id = a.namespace_id
               WHERE a.deleted_at IS NULL AND "#,
            $($rest)*
        )
    };
}

/// Those of the organizations in `reach`.
pub(crate) async fn list(
    lists: &Lists,
    reach: Option<&[OrganizationId]>,
    namespace: Option<&str>,
    window: &Window,
) -> Result<(Vec<Row>, i64), Error> {
    let (rows, total) = apps!(
        page_with_total,
        "($1::uuid[] IS NULL OR n.organization_id = ANY($1)) AND ($2::text IS NULL OR n.name = $2)",
        [reach as _, namespace],
        order "CASE WHEN NOT $4 THEN CASE $3 WHEN 'name' THEN a.name WHEN 'namespace' THEN n.name
                                                  WHEN 'subdomain' THEN a.subdomain END END,
                    CASE WHEN $4 THEN CASE $3 WHEN 'name' THEN a.name WHEN 'namespace' THEN n.name
                                              WHEN 'subdomain' THEN a.subdomain END END DESC,
                    CASE WHEN NOT $4 THEN CASE $3 WHEN 'updated_at' THEN a.updated_at ELSE a.created_at END END,
                    CASE WHEN $4 THEN CASE $3 WHEN 'updated_at' THEN a.updated_at ELSE a.created_at END END DESC, a.id
           LIMIT $5 OFFSET $6",
        [window.sort, window.descending],
        window,
        lists,
        total "SELECT sum(c.applications)::bigint
                 FROM application_counts c JOIN namespaces n ON n.id = c.namespace_id
                 WHERE ($1::uuid[] IS NULL OR n.organization_id = ANY($1)) AND ($2::text IS NULL OR n.name = $2)"
    );
    Ok((rows, total))
}

/// By id.
pub(crate) async fn get(executor: impl PgExecutor<'_>, id: ApplicationId) -> Result<Option<Row>, Error> {
    Ok(apps!(some_without_total, "a.id = $1", id as _)
        .fetch_optional(executor)
        .await?)
}

/// By its names.
pub(crate) async fn by_name(pool: &PgPool, namespace: &str, name: &str) -> Result<Option<Row>, Error> {
    Ok(
        apps!(some_without_total, "n.name = $1 AND a.name = $2", namespace, name)
            .fetch_optional(pool)
            .await?,
    )
}

/// By its host label.
pub(crate) async fn by_subdomain(pool: &PgPool, subdomain: &str) -> Result<Option<Row>, Error> {
    Ok(apps!(some_without_total, "a.subdomain = $1", subdomain)
        .fetch_optional(pool)
        .await?)
}

/// Whether a version of some application has this label for its preview: it would go on serving there.
pub(crate) async fn is_preview(connection: &mut PgConnection, subdomain: &str) -> Result<bool, Error> {
    let taken = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM deployments WHERE preview_label = $1) AS "taken!""#,
        subdomain
    );
    Ok(taken.fetch_one(connection).await?)
}

/// Makes one; false when its name or subdomain is taken.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    id: ApplicationId,
    namespace_id: NamespaceId,
    subdomain: &str,
    request: &CreateAppRequest,
) -> Result<bool, Error> {
    let inserted = sqlx::query!(
        "INSERT INTO applications (id, namespace_id, name, subdomain, description, labels, default_deployment_spec)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        id as _,
        namespace_id as _,
        request.name,
        subdomain,
        request.description.as_deref().unwrap_or_default(),
        Json(request.labels.clone().unwrap_or_default()) as _,
        Json(request.default_deployment_spec.clone().unwrap_or_default()) as _
    )
    .execute(connection)
    .await;
    match inserted {
        Ok(_) => Ok(true),
        Err(error) if is_duplicate(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Changes what is given.
pub(crate) async fn update(
    connection: &mut PgConnection,
    id: ApplicationId,
    request: &UpdateAppRequest,
) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE applications SET description = COALESCE($2, description), labels = COALESCE($3, labels),
                default_deployment_spec = COALESCE($4, default_deployment_spec), updated_at = now()
         WHERE id = $1",
        id as _,
        request.description.as_deref(),
        request.labels.as_ref().map(Json) as _,
        request.default_deployment_spec.as_ref().map(Json) as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// An application that is being deployed; its row stays locked until the change ends, which orders versions.
pub(crate) struct Locked {
    pub(crate) name: String,
    pub(crate) namespace: String,
}

/// Locks it.
pub(crate) async fn lock(connection: &mut PgConnection, id: ApplicationId) -> Result<Option<Locked>, Error> {
    let query = sqlx::query_as!(
        Locked,
        "SELECT a.name, n.name AS namespace FROM applications a JOIN namespaces n ON n.id = a.namespace_id
         WHERE a.id = $1 AND a.deleted_at IS NULL FOR UPDATE OF a",
        id as _
    );
    Ok(query.fetch_optional(connection).await?)
}

/// Hides it and frees its names and ports; the rows go once its last task has ended. False when it is gone already.
pub(crate) async fn hide(connection: &mut PgConnection, id: ApplicationId) -> Result<bool, Error> {
    let hidden = sqlx::query!(
        "UPDATE applications SET deleted_at = now(), name = 'deleted:' || id, subdomain = 'deleted:' || id
         WHERE id = $1 AND deleted_at IS NULL",
        id as _
    );
    if hidden.execute(&mut *connection).await?.rows_affected() == 0 {
        return Ok(false);
    }
    // Nobody can ask for a host with a colon: the previews lead nowhere from now on.
    let previews = sqlx::query!(
        "UPDATE deployments SET preview_label = 'deleted:' || id WHERE application_id = $1",
        id as _
    );
    previews.execute(&mut *connection).await?;
    let ports = sqlx::query!(
        "UPDATE environments SET public_port = NULL WHERE application_id = $1 AND public_port IS NOT NULL",
        id as _
    );
    ports.execute(&mut *connection).await?;
    custom_domain::delete_all(connection, id, None).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use sqlx::AssertSqlSafe;
    use zectre_testkit::TestDatabase;

    #[tokio::test]
    async fn there_are_as_many_as_are_counted() {
        let database = TestDatabase::create().await;
        let pool = database.pool().await;
        let wrong = "SELECT count(*) FROM (SELECT namespace_id, count(*) AS n FROM applications WHERE deleted_at IS NULL GROUP BY 1) AS a
                     FULL JOIN application_counts c USING (namespace_id) WHERE coalesce(a.n, 0) <> coalesce(c.applications, 0)";
        for (change, left) in [
            (
                "INSERT INTO namespaces (id, organization_id, name)
                 SELECT gen_random_uuid(), organization_id, 'other' FROM namespaces LIMIT 1",
                0,
            ),
            (
                "INSERT INTO applications (id, namespace_id, name, subdomain)
                 SELECT gen_random_uuid(), n.id, 'a' || i, n.name || i FROM namespaces n, generate_series(1, 5) AS i",
                10,
            ),
            ("UPDATE applications SET deleted_at = now() WHERE name IN ('a1', 'a2')", 6),
            ("UPDATE applications SET deleted_at = NULL WHERE name = 'a2'", 8),
            ("UPDATE applications SET description = 'x'", 8),
            (
                "UPDATE applications SET name = 'b' || subdomain,
                        namespace_id = (SELECT id FROM namespaces WHERE name = 'other') WHERE name = 'a3'",
                8,
            ),
            ("DELETE FROM applications WHERE name IN ('a1', 'a4')", 6),
            ("DELETE FROM applications WHERE namespace_id = (SELECT id FROM namespaces WHERE name = 'other')", 2),
            ("DELETE FROM namespaces WHERE name = 'other'", 2),
        ] {
            sqlx::query(AssertSqlSafe(change)).execute(&pool).await.expect(change);
            let all = "SELECT coalesce(sum(applications), 0)::bigint FROM application_counts";
            for (question, answer) in [(wrong, 0), (all, left)] {
                let found: i64 = sqlx::query_scalar(question).fetch_one(&pool).await.expect(question);
                assert_eq!(found, answer, "after {change}");
            }
        }
    }
}
