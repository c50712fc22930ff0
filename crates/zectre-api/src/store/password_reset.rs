//! Tokens that set a new password, of which only a hash is stored.

use crate::error::Error;
use sqlx::{PgConnection, PgPool};
use zectre_common::{id::UserId, time::Time};

/// Stores one in place of the user's earlier one.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    user: UserId,
    token_hash: &[u8],
    created_by: UserId,
    expires_at: Time,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO password_resets (user_id, token_hash, created_by, expires_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (user_id) DO UPDATE
         SET token_hash = $2, created_by = $3, expires_at = $4, created_at = now()",
        user as _,
        token_hash,
        created_by as _,
        expires_at as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Whose the token is, if it still holds.
pub(crate) async fn whose(pool: &PgPool, token_hash: &[u8]) -> Result<Option<UserId>, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT user_id AS "user_id: UserId" FROM password_resets WHERE token_hash = $1 AND expires_at > now()"#,
        token_hash
    );
    Ok(query.fetch_optional(pool).await?)
}

/// Takes the token: whose it was. It is gone then, so no second one has it.
pub(crate) async fn take(connection: &mut PgConnection, token_hash: &[u8]) -> Result<Option<UserId>, Error> {
    let query = sqlx::query_scalar!(
        r#"DELETE FROM password_resets WHERE token_hash = $1 AND expires_at > now()
           RETURNING user_id AS "user_id: UserId""#,
        token_hash
    );
    Ok(query.fetch_optional(connection).await?)
}

/// A new password makes the user's token worthless.
pub(crate) async fn forget_of(connection: &mut PgConnection, user: UserId) -> Result<(), Error> {
    sqlx::query!("DELETE FROM password_resets WHERE user_id = $1", user as _)
        .execute(connection)
        .await?;
    Ok(())
}
