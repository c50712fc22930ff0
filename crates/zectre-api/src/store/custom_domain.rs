//! Domains that applications claim, and the routes of those that are verified.

use super::{
    is_duplicate,
    rows::{Lists, page, some},
};
use crate::{domain::proof, error::Error, page::Window, urls::Urls};
use sqlx::{PgConnection, PgExecutor, PgPool};
use std::time::Duration;
use zectre_common::{
    id::{ApplicationId, CustomDomainId, EnvironmentId, RouteId},
    state::{DomainProof, DomainState},
    time::Time,
    wire::domain::{CertificateState, CustomDomain, DomainCertificate},
};

/// As stored.
pub(crate) struct Row {
    id: CustomDomainId,
    domain: String,
    environment: String,
    subdomain: String,
    token: String,
    proof: Option<DomainProof>,
    problem: Option<String>,
    checked_at: Option<Time>,
    verified_at: Option<Time>,
    expires_at: Time,
    created_at: Time,
    /// The certificate ends then, and not before now.
    certified_until: Option<Time>,
    /// A certificate was ordered at some time.
    ordered: bool,
    order_problem: Option<String>,
}

impl Row {
    /// As shown; `page_port` is where pages are looked for, if they are.
    pub(crate) fn into_domain(self, urls: &Urls, page_port: Option<u16>) -> CustomDomain {
        let pending = self.verified_at.is_none();
        let verification = pending.then(|| proof::instructions(&self.domain, &self.token, page_port));
        CustomDomain {
            id: self.id,
            url: urls.of_host(&self.domain),
            target: format!("{}.{}", self.subdomain, urls.domain),
            domain: self.domain,
            environment: self.environment,
            state: if pending {
                DomainState::Pending
            } else {
                DomainState::Verified
            },
            proof: self.proof,
            verification,
            problem: self.problem.filter(|_| pending),
            checked_at: self.checked_at,
            verified_at: self.verified_at,
            expires_at: pending.then_some(self.expires_at),
            certificate: DomainCertificate {
                state: match (&self.certified_until, &self.order_problem) {
                    (Some(_), _) => CertificateState::Valid,
                    (None, Some(_)) => CertificateState::Failed,
                    (None, None) if self.ordered => CertificateState::Ordered,
                    (None, None) => CertificateState::None,
                },
                valid_until: self.certified_until,
                problem: self.order_problem,
            },
            created_at: self.created_at,
        }
    }
}

macro_rules! domains {
    ($form:ident, $($rest:tt)*) => {
        $form!(
            Row,
            r#"c.id AS "id: CustomDomainId", c.domain, e.slug AS environment, a.subdomain, c.token,
                  c.proof AS "proof: DomainProof", c.problem, c.checked_at, c.verified_at, c.expires_at, c.created_at,
                  CASE WHEN t.not_after > now() THEN t.not_after END AS certified_until,
                  (o.name IS NOT NULL) AS "ordered!", o.last_error AS order_problem"#,
            r#"custom_domains c JOIN environments e ON e.id = c.environment_id
               JOIN applications a ON a.id = c.application_id
               LEFT JOIN certificates t ON t.name = c.domain AND c.verified_at IS NOT NULL
               LEFT JOIN acme_orders o ON o.name = c.domain AND c.verified_at IS NOT NULL
               WHERE a.deleted_at IS NULL AND e.deleted_at IS NULL AND "#,
            $($rest)*
        )
    };
}

/// Those of an application.
pub(crate) async fn list(
    lists: &Lists,
    app: ApplicationId,
    environment: Option<&str>,
    window: &Window,
) -> Result<(Vec<Row>, i64), Error> {
    let (rows, total) = domains!(
        page,
        "c.application_id = $1 AND ($2::text IS NULL OR e.slug = $2)",
        [app as _, environment],
        order "CASE WHEN NOT $4 AND $3 = 'domain' THEN c.domain END, CASE WHEN $4 AND $3 = 'domain' THEN c.domain END DESC,
               CASE WHEN NOT $4 THEN c.created_at END, CASE WHEN $4 THEN c.created_at END DESC, c.id
           LIMIT $5 OFFSET $6",
        [window.sort, window.descending],
        window,
        lists
    );
    Ok((rows, total))
}

/// By name.
pub(crate) async fn get(
    executor: impl PgExecutor<'_>,
    app: ApplicationId,
    domain: &str,
) -> Result<Option<Row>, Error> {
    let query = domains!(some, "c.application_id = $1 AND c.domain = $2", app as _, domain);
    Ok(query.fetch_optional(executor).await?)
}

/// What a look at a claim needs.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) id: CustomDomainId,
    pub(crate) domain: String,
    pub(crate) application_id: ApplicationId,
    pub(crate) token: String,
}

/// The claim of an application on a name, and how it was verified.
pub(crate) async fn claim(
    pool: &PgPool,
    app: ApplicationId,
    domain: &str,
) -> Result<Option<(Claim, Option<DomainProof>)>, Error> {
    let row = sqlx::query!(
        r#"SELECT id AS "id: CustomDomainId", token, proof AS "proof: DomainProof" FROM custom_domains
           WHERE application_id = $1 AND domain = $2 AND (verified_at IS NOT NULL OR expires_at > now())"#,
        app as _,
        domain
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| {
        let claim = Claim {
            id: row.id,
            domain: domain.to_owned(),
            application_id: app,
            token: row.token,
        };
        (claim, row.proof)
    }))
}

/// How many an application has.
pub(crate) async fn count(connection: &mut PgConnection, app: ApplicationId) -> Result<i64, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT count(*) AS "n!" FROM custom_domains WHERE application_id = $1"#,
        app as _
    );
    Ok(query.fetch_one(connection).await?)
}

/// Makes a claim; false when the application has made it before.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    claim: &Claim,
    environment: EnvironmentId,
    pending_ttl_secs: u64,
) -> Result<bool, Error> {
    let inserted = sqlx::query!(
        "INSERT INTO custom_domains (id, domain, application_id, environment_id, token, expires_at)
         VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6))
         ON CONFLICT (application_id, domain) DO NOTHING",
        claim.id as _,
        claim.domain,
        claim.application_id as _,
        environment as _,
        claim.token,
        pending_ttl_secs as f64
    );
    Ok(inserted.execute(connection).await?.rows_affected() > 0)
}

/// What became of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The claim holds the name, and its route is there.
    Verified,
    /// Another application holds it.
    Taken,
    /// The claim was deleted meanwhile, or another look verified it, no weaker.
    Overtaken,
}

/// Takes the claim's name from another application that holds it by less than a record in its zone: that one is
/// pending again. Whose it was.
pub(crate) async fn displace(
    connection: &mut PgConnection,
    claim: &Claim,
    pending_ttl_secs: u64,
) -> Result<Vec<ApplicationId>, Error> {
    let displaced = sqlx::query_scalar!(
        r#"UPDATE custom_domains SET verified_at = NULL, proof = NULL, checks = 0, next_check_at = now(),
                  expires_at = now() + make_interval(secs => $3)
           WHERE domain = $1 AND application_id <> $2 AND verified_at IS NOT NULL AND proof <> 'dns'
           RETURNING application_id AS "id: ApplicationId""#,
        claim.domain,
        claim.application_id as _,
        pending_ttl_secs as f64
    )
    .fetch_all(&mut *connection)
    .await?;
    for loser in &displaced {
        unroute(&mut *connection, *loser, &claim.domain).await?;
    }
    Ok(displaced)
}

/// Makes the claim the one that holds its name, and its route. On [`Outcome::Taken`] the transaction can't go on.
pub(crate) async fn verified(
    connection: &mut PgConnection,
    claim: &Claim,
    proof: DomainProof,
) -> Result<Outcome, Error> {
    let updated = sqlx::query_scalar!(
        r#"UPDATE custom_domains SET verified_at = now(), checked_at = now(), proof = $2, problem = NULL
           WHERE id = $1 AND CASE WHEN verified_at IS NULL THEN expires_at > now() ELSE $2 = 'dns' AND proof <> 'dns' END
           RETURNING environment_id AS "id: EnvironmentId""#,
        claim.id as _,
        proof.as_str()
    )
    .fetch_optional(&mut *connection)
    .await;
    let environment = match updated {
        Ok(Some(environment)) => environment,
        Ok(None) => return Ok(Outcome::Overtaken),
        Err(error) if is_duplicate(&error) => return Ok(Outcome::Taken),
        Err(error) => return Err(error.into()),
    };
    // It may be verified a second time, by something stronger.
    let routed = sqlx::query!(
        "INSERT INTO routes (id, domain, application_id, environment_id) VALUES ($1, $2, $3, $4)
         ON CONFLICT (domain, (deployment_id IS NULL)) DO UPDATE
             SET application_id = EXCLUDED.application_id, environment_id = EXCLUDED.environment_id",
        RouteId::new() as _,
        claim.domain,
        claim.application_id as _,
        environment as _
    );
    routed.execute(connection).await?;
    Ok(Outcome::Verified)
}

/// Keeps what a look found instead of a proof; false when the claim is no longer pending.
pub(crate) async fn found_problem(pool: &PgPool, id: CustomDomainId, problem: &str) -> Result<bool, Error> {
    let query = sqlx::query!(
        "UPDATE custom_domains SET checked_at = now(), problem = $2 WHERE id = $1 AND verified_at IS NULL",
        id as _,
        problem
    );
    Ok(query.execute(pool).await?.rows_affected() > 0)
}

/// Up to `batch_max` pending claims that are due for a look. Each is due again later: whoever took it may die.
pub(crate) async fn take_due(pool: &PgPool, batch_max: i64) -> Result<Vec<Claim>, Error> {
    let mut transaction = pool.begin().await?;
    let due = sqlx::query!(
        r#"SELECT id AS "id: CustomDomainId", domain, application_id AS "application_id: ApplicationId", token, checks
           FROM custom_domains WHERE verified_at IS NULL AND expires_at > now() AND next_check_at <= now()
           ORDER BY next_check_at LIMIT $1 FOR UPDATE SKIP LOCKED"#,
        batch_max
    )
    .fetch_all(&mut *transaction)
    .await?;
    let mut claims = Vec::with_capacity(due.len());
    for row in due {
        let checks = row.checks.saturating_add(1);
        let pause: Duration = proof::recheck_after(checks.unsigned_abs());
        let later = sqlx::query!(
            "UPDATE custom_domains SET checks = $2, next_check_at = now() + make_interval(secs => $3) WHERE id = $1",
            row.id as _,
            checks,
            pause.as_secs_f64()
        );
        later.execute(&mut *transaction).await?;
        claims.push(Claim {
            id: row.id,
            domain: row.domain,
            application_id: row.application_id,
            token: row.token,
        });
    }
    transaction.commit().await?;
    Ok(claims)
}

/// Whether a claim was not verified in time.
pub(crate) async fn any_expired(pool: &PgPool) -> Result<bool, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM custom_domains WHERE verified_at IS NULL AND expires_at < now()) AS "any!""#
    );
    Ok(query.fetch_one(pool).await?)
}

/// Forgets up to `batch_max` claims that were not verified in time: whose, and which.
pub(crate) async fn forget_expired(
    connection: &mut PgConnection,
    batch_max: i64,
) -> Result<Vec<(ApplicationId, String)>, Error> {
    let rows = sqlx::query!(
        r#"DELETE FROM custom_domains WHERE id IN (
               SELECT id FROM custom_domains WHERE verified_at IS NULL AND expires_at < now()
               LIMIT $1 FOR UPDATE SKIP LOCKED)
           RETURNING application_id AS "application_id: ApplicationId", domain"#,
        batch_max
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.application_id, row.domain))
        .collect())
}

/// Forgets the claims of an application that were not verified in time, though the rounds that look for such have not come yet:
/// which.
pub(crate) async fn forget_expired_of(
    connection: &mut PgConnection,
    app: ApplicationId,
) -> Result<Vec<String>, Error> {
    let query = sqlx::query_scalar!(
        "DELETE FROM custom_domains WHERE application_id = $1 AND verified_at IS NULL AND expires_at <= now() RETURNING domain",
        app as _
    );
    Ok(query.fetch_all(connection).await?)
}

/// Gives a name up, its route with it; false when the application has no claim on it.
pub(crate) async fn delete(
    connection: &mut PgConnection,
    app: ApplicationId,
    domain: &str,
) -> Result<bool, Error> {
    let deleted = sqlx::query!(
        "DELETE FROM custom_domains WHERE application_id = $1 AND domain = $2",
        app as _,
        domain
    );
    let deleted = deleted.execute(&mut *connection).await?.rows_affected() > 0;
    unroute(connection, app, domain).await?;
    Ok(deleted)
}

/// Gives all names of an application up, or those of one of its environments, with their routes.
pub(crate) async fn delete_all(
    connection: &mut PgConnection,
    app: ApplicationId,
    environment: Option<EnvironmentId>,
) -> Result<(), Error> {
    let claims = sqlx::query!(
        "DELETE FROM custom_domains WHERE application_id = $1 AND ($2::uuid IS NULL OR environment_id = $2)",
        app as _,
        environment as _
    );
    claims.execute(&mut *connection).await?;
    let routes = sqlx::query!(
        "DELETE FROM routes WHERE application_id = $1 AND ($2::uuid IS NULL OR environment_id = $2)",
        app as _,
        environment as _
    );
    routes.execute(connection).await?;
    Ok(())
}

async fn unroute(connection: &mut PgConnection, app: ApplicationId, domain: &str) -> Result<(), Error> {
    let query = sqlx::query!(
        "DELETE FROM routes WHERE application_id = $1 AND domain = $2 AND deployment_id IS NULL",
        app as _,
        domain
    );
    query.execute(connection).await?;
    Ok(())
}
