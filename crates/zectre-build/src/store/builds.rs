//! Builds: claimed by lease, ended once. Every write of a worker names its lease, so a worker that lost it
//! changes nothing.

use crate::{core::verdict::End, error::Error, git::GitSource};
use sqlx::{PgPool, types::Json};
use std::time::Duration;
use uuid::Uuid;
use zectre_common::{
    db::channel,
    id::{ApplicationId, ArtifactId, BuildId, EventId},
    state::{BuildStatus, Reason},
    time::Time,
    wire::build::{Build, Diagnostic, GitCommit},
};
use zectre_service::token::name;

/// A build that this worker holds.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// Which.
    pub id: BuildId,
    /// Whose.
    pub application: ApplicationId,
    /// Where its source is.
    pub origin: Origin,
    /// Names this claim; no other one has it.
    pub lease: Uuid,
    /// This one counted.
    pub attempts: u32,
    /// Someone cancelled it before the claim.
    pub cancel_requested: bool,
}

impl Claimed {
    /// Whose it is while it lasts.
    pub const fn claim(&self) -> Claim {
        Claim {
            build: self.id,
            lease: self.lease,
        }
    }
}

/// That a worker has a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Which build.
    pub build: BuildId,
    /// Names the claim; no other one has it.
    pub lease: Uuid,
}

impl Claim {
    /// What directories and groups made for it are called.
    pub fn name(&self) -> String {
        format!("{}-{}", self.build, self.lease.simple())
    }

    /// The claim of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let (build, lease) = name.rsplit_once('-')?;
        Some(Self {
            build: build.parse().ok()?,
            lease: lease.parse().ok()?,
        })
    }
}

/// Where a build's source is.
#[derive(Debug, Clone)]
pub enum Origin {
    /// It was uploaded.
    Archive(ArtifactId),
    /// It is a commit of a repository.
    Git(GitSource),
}

/// Takes a build that waits, or whose worker fell silent. Organizations have turns, so that nobody's queue holds up the others: the one
/// with the fewest builds under way comes first, of several the one whose last build was begun longest ago, and of its builds the oldest.
pub async fn claim(pool: &PgPool, lease_for: Duration) -> Result<Option<Claimed>, Error> {
    let lease = Uuid::now_v7();
    let row = sqlx::query!(
        r#"WITH open AS (
               SELECT b.id, n.organization_id AS organization
               FROM builds b JOIN applications a ON a.id = b.application_id JOIN namespaces n ON n.id = a.namespace_id
               WHERE b.status = 'queued' OR (b.status = 'running' AND b.lease_expires_at < now())),
           turns AS (
               SELECT n.organization_id AS organization, max(b.started_at) AS last,
                      count(*) FILTER (WHERE b.status = 'running' AND b.lease_expires_at >= now()) AS under_way
               FROM builds b JOIN applications a ON a.id = b.application_id JOIN namespaces n ON n.id = a.namespace_id
               WHERE n.organization_id IN (SELECT organization FROM open) GROUP BY n.organization_id)
           UPDATE builds SET status = 'running', lease_owner = $1, attempts = attempts + 1,
               message = CASE WHEN status = 'running' AND NOT cancel_requested THEN $3 ELSE message END,
               lease_expires_at = now() + $2 * interval '1 millisecond', started_at = coalesce(started_at, now())
           WHERE id = (SELECT b.id FROM builds b JOIN open ON open.id = b.id JOIN turns USING (organization)
                       WHERE b.status = 'queued' OR (b.status = 'running' AND b.lease_expires_at < now())
                       ORDER BY turns.under_way, turns.last NULLS FIRST, b.created_at
                       LIMIT 1 FOR UPDATE OF b SKIP LOCKED)
           RETURNING id AS "id: BuildId", application_id AS "application: ApplicationId",
               source_artifact_id AS "source: ArtifactId", git_repository, git_ref, git_root_dir, attempts,
               cancel_requested"#,
        lease,
        lease_for.as_millis() as f64,
        "its worker is gone; another one has begun it anew"
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| Claimed {
        id: row.id,
        application: row.application,
        origin: match row.source {
            Some(source) => Origin::Archive(source),
            // The table's own check: what has no archive has a repository.
            None => Origin::Git(GitSource {
                repository: row.git_repository.unwrap_or_default(),
                reference: row.git_ref.unwrap_or_else(|| "HEAD".into()),
                root_dir: row.git_root_dir.unwrap_or_default(),
            }),
        },
        lease,
        attempts: u32::try_from(row.attempts).unwrap_or(u32::MAX),
        cancel_requested: row.cancel_requested,
    }))
}

/// Ends the leases of claims whose worker is gone for sure: their builds are taken again at once.
pub async fn hand_back(pool: &PgPool, claims: &[Claim]) -> Result<u64, Error> {
    let builds: Vec<Uuid> = claims.iter().map(|claim| claim.build.get()).collect();
    let leases: Vec<Uuid> = claims.iter().map(|claim| claim.lease).collect();
    let ended = sqlx::query!(
        "UPDATE builds SET lease_expires_at = now()
         FROM unnest($1::uuid[], $2::uuid[]) AS claim (build, lease)
         WHERE id = claim.build AND lease_owner = claim.lease AND status = 'running' AND lease_expires_at > now()",
        &builds,
        &leases
    )
    .execute(pool)
    .await?;
    Ok(ended.rows_affected())
}

/// Writes down which commit was fetched.
pub async fn fetched(pool: &PgPool, claimed: &Claimed, commit: &str) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE builds SET git_commit = $3 WHERE id = $1 AND lease_owner = $2 AND status = 'running'",
        claimed.id as _,
        claimed.lease,
        commit
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The sealed token that the application's source has for this repository, and for no other.
pub async fn token(
    pool: &PgPool,
    application: ApplicationId,
    repository: &str,
) -> Result<Option<Vec<u8>>, Error> {
    let token = sqlx::query_scalar!(
        "SELECT credential FROM sources WHERE application_id = $1 AND repository = $2",
        application as _,
        repository
    );
    Ok(token.fetch_optional(pool).await?.flatten())
}

/// Renews a lease: whether the build should stop, or `None` when the lease is lost.
pub async fn renew(pool: &PgPool, claimed: &Claimed, lease_for: Duration) -> Result<Option<bool>, Error> {
    Ok(sqlx::query_scalar!(
        "UPDATE builds SET lease_expires_at = now() + $3 * interval '1 millisecond'
         WHERE id = $1 AND lease_owner = $2 AND status = 'running' RETURNING cancel_requested",
        claimed.id as _,
        claimed.lease,
        lease_for.as_millis() as f64
    )
    .fetch_optional(pool)
    .await?)
}

/// Ends a build. False when the lease is lost: then nothing was written.
pub async fn end(pool: &PgPool, claimed: &Claimed, end: &End) -> Result<bool, Error> {
    let mut transaction = pool.begin().await?;
    // Who cancelled it has said so.
    let ended = sqlx::query_scalar!(
        "UPDATE builds SET status = $3, reason = $4, diagnostics = $6, artifact_id = $7,
             message = CASE WHEN $3 = 'cancelled' THEN COALESCE(message, $5) ELSE $5 END,
             finished_at = now(), lease_owner = NULL, lease_expires_at = NULL
         WHERE id = $1 AND lease_owner = $2 AND status = 'running' RETURNING message",
        claimed.id as _,
        claimed.lease,
        end.status as _,
        end.reason as _,
        end.message,
        Json(&end.diagnostics) as _,
        end.artifact as _
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(message) = ended else {
        return Ok(false);
    };
    let end = End {
        message,
        ..end.clone()
    };
    tell(&mut transaction, claimed.id, claimed.application, &end).await?;
    transaction.commit().await?;
    Ok(true)
}

/// The event and the hint that go with an end.
async fn tell(
    transaction: &mut sqlx::PgConnection,
    id: BuildId,
    application: ApplicationId,
    end: &End,
) -> Result<(), Error> {
    let action = format!("build.{}", end.status);
    let message = match &end.message {
        Some(message) => format!("build {id} {}: {message}", end.status),
        None => format!("build {id} {}", end.status),
    };
    sqlx::query!(
        "INSERT INTO events (id, actor, action, application_id, message, reason) VALUES ($1, $2, $3, $4, $5, $6)",
        EventId::new() as _,
        name::BUILD,
        action,
        application as _,
        message,
        end.reason as _
    )
    .execute(&mut *transaction)
    .await?;
    hint(transaction, id).await
}

async fn hint(connection: &mut sqlx::PgConnection, id: BuildId) -> Result<(), Error> {
    sqlx::query!(
        r#"SELECT pg_notify($1, $2) AS "told!: ()""#,
        channel::BUILDS,
        id.to_string()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives a build back, so that it is tried again. When that was is kept: whoever looks for builds that no worker takes
/// counts from the last sign of one.
pub async fn requeue(pool: &PgPool, claimed: &Claimed, counted: bool) -> Result<(), Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query!(
        "UPDATE builds SET status = 'queued', lease_owner = NULL, lease_expires_at = now(),
             attempts = attempts - CASE WHEN $3 THEN 0 ELSE 1 END,
             message = CASE WHEN cancel_requested THEN message
                            ELSE 'its worker gave it back; the next one begins it anew' END
         WHERE id = $1 AND lease_owner = $2 AND status = 'running'",
        claimed.id as _,
        claimed.lease,
        counted
    )
    .execute(&mut *transaction)
    .await?;
    hint(&mut transaction, claimed.id).await?;
    transaction.commit().await?;
    Ok(())
}

/// Cancels a build: at once when it waits, else its worker is told. `None` when there is no such build.
pub async fn cancel(pool: &PgPool, id: BuildId) -> Result<Option<Build>, Error> {
    let mut transaction = pool.begin().await?;
    let before = sqlx::query!(
        r#"UPDATE builds SET cancel_requested = true, message = CASE WHEN cancel_requested THEN message END
           WHERE id = $1 AND status IN ('queued', 'running')
           RETURNING status AS "status: BuildStatus", application_id AS "application: ApplicationId""#,
        id as _
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if let Some(before) = before {
        if before.status == BuildStatus::Queued {
            let end = End::cancelled();
            sqlx::query!(
                "UPDATE builds SET status = 'cancelled', reason = $2, message = COALESCE(message, $3), finished_at = now()
                 WHERE id = $1",
                id as _,
                end.reason as _,
                end.message
            )
            .execute(&mut *transaction)
            .await?;
            tell(&mut transaction, id, before.application, &end).await?;
        } else {
            hint(&mut transaction, id).await?;
        }
    }
    transaction.commit().await?;
    get(pool, id).await
}

/// Reads one.
pub async fn get(pool: &PgPool, id: BuildId) -> Result<Option<Build>, Error> {
    let row = sqlx::query!(
        r#"SELECT id AS "id: BuildId", application_id AS "application: ApplicationId",
               status AS "status: BuildStatus", reason AS "reason: Reason", message,
               diagnostics AS "diagnostics: Json<Vec<Diagnostic>>", source_artifact_id AS "source: ArtifactId",
               git_repository, git_ref, git_commit,
               artifact_id AS "artifact: ArtifactId", created_at AS "created_at: Time",
               started_at AS "started_at: Time", finished_at AS "finished_at: Time"
           FROM builds WHERE id = $1"#,
        id as _
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| Build {
        id: row.id,
        application_id: row.application,
        status: row.status,
        reason: row.reason,
        message: row.message,
        diagnostics: row.diagnostics.0,
        source_artifact_id: row.source,
        git: GitCommit::of(row.git_repository, row.git_ref, row.git_commit),
        artifact_id: row.artifact,
        created_at: row.created_at,
        started_at: row.started_at,
        finished_at: row.finished_at,
    }))
}

/// Whether the database answers.
pub async fn ping(pool: &PgPool) -> Result<(), Error> {
    sqlx::query_scalar!(r#"SELECT 1 AS "one!""#)
        .fetch_one(pool)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zectre_testkit::TestDatabase;

    /// An organization with an application; the application's id.
    async fn application(pool: &PgPool, name: &str) -> ApplicationId {
        let id = ApplicationId::new();
        let made = sqlx::query(
            "WITH organization AS (INSERT INTO organizations (id, slug, name) VALUES (gen_random_uuid(), $2, $2) RETURNING id),
                  namespace AS (INSERT INTO namespaces (id, organization_id, name)
                                SELECT gen_random_uuid(), id, $2 FROM organization RETURNING id)
             INSERT INTO applications (id, namespace_id, name, subdomain) SELECT $1, id, $2, $2 FROM namespace",
        );
        made.bind(id).bind(name).execute(pool).await.expect("valid");
        id
    }

    async fn queue(pool: &PgPool, application: ApplicationId) {
        let queued = sqlx::query(
            "INSERT INTO builds (id, application_id, git_repository, git_ref, git_root_dir)
             VALUES ($1, $2, 'https://git.test/x', 'HEAD', '')",
        );
        let queued = queued.bind(BuildId::new()).bind(application);
        queued.execute(pool).await.expect("valid");
    }

    async fn next(pool: &PgPool) -> Option<Claimed> {
        claim(pool, Duration::from_secs(60)).await.expect("it answers")
    }

    #[tokio::test]
    async fn organizations_have_turns() {
        let database = TestDatabase::create().await;
        let pool = database.pool().await;
        let (crowd, other) = (
            application(&pool, "crowd").await,
            application(&pool, "other").await,
        );
        for of in [crowd, crowd, crowd, crowd, other] {
            queue(&pool, of).await;
        }
        // One slot: each ends before the next one is taken.
        let mut taken = Vec::new();
        for _ in 0..3 {
            let claimed = next(&pool).await.expect("one waits");
            assert!(end(&pool, &claimed, &End::cancelled()).await.expect("it answers"));
            taken.push(claimed.application);
        }
        assert_eq!(taken, [crowd, other, crowd]);
        // Two slots: who has one under way waits for who has none, however long ago that one's last was.
        let first = next(&pool).await.expect("one waits");
        queue(&pool, other).await;
        let second = next(&pool).await.expect("one waits");
        let third = next(&pool).await.expect("one waits");
        let taken = [first, second.clone(), third].map(|claimed| claimed.application);
        assert_eq!(taken, [crowd, other, crowd]);
        assert!(next(&pool).await.is_none());
        // Workers that fell silent have nothing under way: only whose turn was last counts.
        sqlx::query(
            "UPDATE builds SET lease_expires_at = now() - interval '1 second' WHERE status = 'running'",
        )
        .execute(&pool)
        .await
        .expect("valid");
        assert_eq!(next(&pool).await.expect("one waits").id, second.id);
    }
}
