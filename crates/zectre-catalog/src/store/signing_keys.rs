//! The keys that sign tokens. Whoever changes them holds the table, so that of several processes one does.

use crate::error::Error;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use zectre_common::time::Time;

/// A key as it is stored.
pub struct StoredKey {
    /// Its id.
    pub kid: String,
    /// What it signs with.
    pub algorithm: String,
    /// Its public half.
    pub public_jwk: serde_json::Value,
    /// Its private half.
    pub private_sealed: Vec<u8>,
    /// From when on it signs.
    pub signs_from: Time,
}

/// A key to be stored.
pub struct NewKey {
    /// Its id.
    pub kid: String,
    /// What it signs with.
    pub algorithm: &'static str,
    /// Its public half.
    pub public_jwk: serde_json::Value,
    /// Its private half.
    pub private_sealed: Vec<u8>,
    /// From when on it signs.
    pub signs_from: Time,
}

/// A transaction in which nobody else changes keys.
pub async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query!("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await?;
    Ok(transaction)
}

/// All of them, in the order in which they sign.
pub async fn all(connection: &mut PgConnection) -> Result<Vec<StoredKey>, Error> {
    let query = sqlx::query_as!(
        StoredKey,
        "SELECT kid, algorithm, public_jwk, private_sealed, signs_from FROM signing_keys ORDER BY signs_from"
    );
    Ok(query.fetch_all(connection).await?)
}

/// Stores one.
pub async fn insert(connection: &mut PgConnection, key: &NewKey) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO signing_keys (kid, algorithm, public_jwk, private_sealed, signs_from) VALUES ($1, $2, $3, $4, $5)",
        key.kid,
        key.algorithm,
        key.public_jwk,
        key.private_sealed,
        key.signs_from as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets these.
pub async fn delete(connection: &mut PgConnection, kids: &[String]) -> Result<(), Error> {
    sqlx::query!("DELETE FROM signing_keys WHERE kid = ANY($1)", kids)
        .execute(connection)
        .await?;
    Ok(())
}
