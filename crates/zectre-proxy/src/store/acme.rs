//! Orders for certificates, as all proxies see them. Times are PostgreSQL's: proxies' clocks may differ.

use crate::{
    store::{STATEMENT_TIMEOUT, certificates, certificates::Issued, feed::too_slow},
    tls::acme::plan::{Life, Subject},
};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{PgPool, Postgres, Transaction};
use std::{collections::HashMap, future::Future, time::Duration};
use tokio::time::timeout;
use zectre_common::id::ProxyId;
use zectre_service::{
    ring::KeyRing,
    seal::{self, OpenError},
};

/// A holder that says nothing for longer has lost its order to another proxy.
pub const LEASE: Duration = Duration::from_secs(30);
/// ACME servers give up on a challenge long before.
const CHALLENGE_SECS: f64 = 3_600.0;

/// What can go wrong here.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// PostgreSQL.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// What is stored doesn't open.
    #[error(transparent)]
    Sealed(#[from] OpenError),
    /// Another proxy has it.
    #[error("another proxy has taken the order over")]
    Lost,
}

/// An order that this proxy holds.
#[derive(Debug)]
pub struct Held {
    /// The name it is for.
    pub name: String,
    /// Failures in a row.
    pub attempts: u32,
    /// What was begun already: where the order is, and the key that it is for.
    pub begun: Option<(String, SecretString)>,
}

/// The orders, as one proxy.
#[derive(Debug, Clone)]
pub struct Orders {
    /// The database.
    pub pool: PgPool,
    /// Seals keys.
    pub key: KeyRing,
    /// Who holds.
    pub me: ProxyId,
}

impl Orders {
    /// The names that certificates are ordered for, beside configured ones: custom domains that were verified.
    pub async fn wanted(&self) -> Result<Vec<String>, StoreError> {
        let names = sqlx::query_scalar!("SELECT domain FROM custom_domains WHERE verified_at IS NOT NULL");
        bounded(names.fetch_all(&self.pool)).await
    }

    /// What is known of `names`, and what time it is.
    pub async fn subjects(&self, names: &[String]) -> Result<(i64, Vec<Subject>), StoreError> {
        let rows = sqlx::query!(
            r#"SELECT w.name AS "name!", COALESCE(o.revision, 0) AS "revision!",
                      extract(epoch FROM o.lease_until)::bigint AS lease_until,
                      extract(epoch FROM o.next_try_at)::bigint AS next_try_at,
                      extract(epoch FROM c.not_before)::bigint AS not_before,
                      extract(epoch FROM c.not_after)::bigint AS not_after,
                      extract(epoch FROM now())::bigint AS "now!"
               FROM unnest($1::text[]) AS w (name)
               LEFT JOIN acme_orders o ON o.name = w.name
               LEFT JOIN certificates c ON c.name = w.name"#,
            names
        );
        let rows = bounded(rows.fetch_all(&self.pool)).await?;
        let now = rows.first().map_or(0, |row| row.now);
        let subjects = rows.into_iter().map(|row| Subject {
            name: row.name,
            revision: row.revision,
            lease_until: row.lease_until,
            next_try_at: row.next_try_at,
            life: row
                .not_before
                .zip(row.not_after)
                .map(|(from, to)| Life { from, to }),
        });
        Ok((now, subjects.collect()))
    }

    /// Takes the order for `subject`, unless anybody has touched it since it was looked at.
    pub async fn claim(&self, subject: &Subject) -> Result<Option<Held>, StoreError> {
        let row = sqlx::query!(
            r#"INSERT INTO acme_orders AS o (name, revision, holder, lease_until)
               VALUES ($1, 1, $2, now() + $4 * interval '1 second')
               ON CONFLICT (name) DO UPDATE SET revision = o.revision + 1, holder = excluded.holder,
                   lease_until = excluded.lease_until
               WHERE o.revision = $3 AND (o.lease_until IS NULL OR o.lease_until <= now())
               RETURNING order_url, sealed_key, attempts"#,
            subject.name,
            self.me as _,
            subject.revision,
            LEASE.as_secs_f64(),
        );
        let Some(row) = bounded(row.fetch_optional(&self.pool)).await? else {
            return Ok(None);
        };
        let begun = match (row.order_url, row.sealed_key) {
            (Some(url), Some(sealed)) => {
                match seal::open(&self.key, &seal::place::acme_order(&subject.name), &sealed) {
                    Ok(key) => Some((url, key)),
                    Err(error) => {
                        tracing::error!(name = subject.name, %error, "the key of an order is lost; ordering anew");
                        None
                    }
                }
            }
            _ => None,
        };
        Ok(Some(Held {
            name: subject.name.clone(),
            attempts: row.attempts as u32,
            begun,
        }))
    }

    /// Holds on to the order for another [`LEASE`].
    pub async fn extend(&self, name: &str) -> Result<(), StoreError> {
        let extended = sqlx::query!(
            "UPDATE acme_orders SET lease_until = now() + $3 * interval '1 second' WHERE name = $1 AND holder = $2",
            name,
            self.me as _,
            LEASE.as_secs_f64(),
        );
        held(bounded(extended.execute(&self.pool)).await?.rows_affected())
    }

    /// Keeps where the order is, and the key it is for, for whoever goes on with it.
    pub async fn keep(&self, name: &str, url: &str, key: &str) -> Result<(), StoreError> {
        let mut connection = bounded(self.pool.acquire()).await?;
        // Only now: a value that is long on its way may come after its key was forgotten.
        let sealed = seal::seal(&self.key, &seal::place::acme_order(name), key);
        let kept = sqlx::query!(
            "UPDATE acme_orders SET order_url = $3, sealed_key = $4 WHERE name = $1 AND holder = $2",
            name,
            self.me as _,
            url,
            sealed,
        );
        held(bounded(kept.execute(&mut *connection)).await?.rows_affected())
    }

    /// The certificate is there: it is stored, and the order is done with.
    pub async fn finish(&self, issued: &Issued<'_>) -> Result<(), StoreError> {
        let finished = async {
            let mut transaction = self.pool.begin().await?;
            let done = sqlx::query!(
                "UPDATE acme_orders SET revision = revision + 1, holder = NULL, lease_until = NULL, order_url = NULL,
                     sealed_key = NULL, attempts = 0, next_try_at = now(), last_error = NULL
                 WHERE name = $1 AND holder = $2",
                issued.name,
                self.me as _,
            )
            .execute(&mut *transaction)
            .await?;
            if done.rows_affected() == 1 {
                sqlx::query!("DELETE FROM acme_challenges WHERE name = $1", issued.name)
                    .execute(&mut *transaction)
                    .await?;
                certificates::put(&mut transaction, &self.key, issued).await?;
                transaction.commit().await?;
            }
            Ok(done.rows_affected())
        };
        held(bounded(finished).await?)
    }

    /// The order failed: nobody tries again before `pause` is over. `forget` gives the order itself up.
    pub async fn fail(
        &self,
        name: &str,
        error: &str,
        pause: Duration,
        forget: bool,
    ) -> Result<(), StoreError> {
        let failed = sqlx::query!(
            "UPDATE acme_orders SET revision = revision + 1, holder = NULL, lease_until = NULL, attempts = attempts + 1,
                 next_try_at = now() + $3 * interval '1 second', last_error = $4,
                 order_url = CASE WHEN $5 THEN NULL ELSE order_url END,
                 sealed_key = CASE WHEN $5 THEN NULL ELSE sealed_key END
             WHERE name = $1 AND holder = $2",
            name,
            self.me as _,
            pause.as_secs_f64(),
            error,
            forget,
        );
        held(bounded(failed.execute(&self.pool)).await?.rows_affected())
    }

    /// This proxy stops: another one may go on at once.
    pub async fn release(&self, name: &str) -> Result<(), StoreError> {
        let released = sqlx::query!(
            "UPDATE acme_orders SET revision = revision + 1, holder = NULL, lease_until = NULL
             WHERE name = $1 AND holder = $2",
            name,
            self.me as _,
        );
        held(bounded(released.execute(&self.pool)).await?.rows_affected())
    }

    /// What the server will look for at `name`.
    pub async fn expect(&self, name: &str, token: &str, key_authorization: &str) -> Result<(), StoreError> {
        let put = sqlx::query!(
            "INSERT INTO acme_challenges (name, token, key_authorization, expires_at)
             VALUES ($1, $2, $3, now() + $4 * interval '1 second')
             ON CONFLICT (name) DO UPDATE SET token = excluded.token, key_authorization = excluded.key_authorization,
                 expires_at = excluded.expires_at",
            name,
            token,
            key_authorization,
            CHALLENGE_SECS,
        );
        bounded(put.execute(&self.pool)).await.map(drop)
    }

    /// The account at `directory_url`, and the right to make one: nobody else looks until the transaction ends.
    pub async fn account(
        &self,
        directory_url: &str,
    ) -> Result<(Transaction<'static, Postgres>, Option<SecretString>), StoreError> {
        let look = async {
            let mut transaction = self.pool.begin().await?;
            sqlx::query!(
                "SELECT pg_advisory_xact_lock(hashtext('acme account'), hashtext($1))",
                directory_url
            )
            .execute(&mut *transaction)
            .await?;
            let sealed = sqlx::query_scalar!(
                "SELECT sealed_credentials FROM acme_accounts WHERE directory_url = $1",
                directory_url
            )
            .fetch_optional(&mut *transaction)
            .await?;
            Ok((transaction, sealed))
        };
        let (transaction, sealed) = bounded(look).await?;
        let opened =
            sealed.map(|sealed| seal::open(&self.key, &seal::place::acme_account(directory_url), &sealed));
        Ok((transaction, opened.transpose()?))
    }

    /// Keeps the account that was made, and ends the transaction of [`Orders::account`].
    pub async fn keep_account(
        &self,
        mut transaction: Transaction<'static, Postgres>,
        directory_url: &str,
        account_url: &str,
        credentials: &SecretString,
    ) -> Result<(), StoreError> {
        let sealed = seal::seal(
            &self.key,
            &seal::place::acme_account(directory_url),
            credentials.expose_secret(),
        );
        let keep = async {
            sqlx::query!(
                "INSERT INTO acme_accounts (directory_url, account_url, sealed_credentials) VALUES ($1, $2, $3)",
                directory_url,
                account_url,
                sealed,
            )
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await
        };
        bounded(keep).await
    }

    /// The account `account_url` is of no use any more.
    pub async fn forget_account(&self, directory_url: &str, account_url: &str) -> Result<(), StoreError> {
        let forgotten = sqlx::query!(
            "DELETE FROM acme_accounts WHERE directory_url = $1 AND account_url = $2",
            directory_url,
            account_url
        );
        bounded(forgotten.execute(&self.pool)).await.map(drop)
    }
}

/// What proves that a name is ours.
#[derive(Debug)]
pub struct Challenge {
    /// The page that it is at.
    pub token: String,
    /// What is there, and of what the name's certificate is made.
    pub key_authorization: String,
}

/// All that are open, by name.
pub async fn challenges(pool: &PgPool) -> Result<HashMap<String, Challenge>, sqlx::Error> {
    let rows =
        sqlx::query!("SELECT name, token, key_authorization FROM acme_challenges WHERE expires_at > now()")
            .fetch_all(pool)
            .await?;
    let named = rows.into_iter().map(|row| {
        let challenge = Challenge {
            token: row.token,
            key_authorization: row.key_authorization,
        };
        (row.name, challenge)
    });
    Ok(named.collect())
}

fn held(rows: u64) -> Result<(), StoreError> {
    if rows == 1 { Ok(()) } else { Err(StoreError::Lost) }
}

async fn bounded<T>(statement: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    Ok(timeout(STATEMENT_TIMEOUT, statement).await.map_err(too_slow)??)
}
