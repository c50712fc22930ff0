//! Sealed values of any kind, for a rotation of the keys. The statements are made from a database's one list of such columns
//! (the platform's is `seal::place`), which is why they are not checked when this is compiled; a test runs every one.

use crate::seal::place::{Column, Form};
use sqlx::{AssertSqlSafe, Error, PgConnection, PgPool, Row as _};

/// A value that another key than the newest has sealed.
pub(crate) struct Stale {
    /// Where the row is, as long as nobody changes it.
    at: String,
    /// What names the row.
    pub(crate) row: Vec<String>,
    pub(crate) sealed: Vec<u8>,
}

/// How many blocks the table has.
pub(crate) async fn blocks(pool: &PgPool, column: &Column) -> Result<i64, Error> {
    let size = "SELECT pg_relation_size($1::regclass) / current_setting('block_size')::bigint";
    sqlx::query_scalar(size).bind(column.table).fetch_one(pool).await
}

/// What in these blocks does not begin with `prefix`.
pub(crate) async fn stale(
    pool: &PgPool,
    column: &Column,
    (from, to): (i64, i64),
    prefix: &[u8],
) -> Result<Vec<Stale>, Error> {
    let (read, _) = as_bytes(column);
    let statement = format!(
        "SELECT ctid::text AS at, ARRAY[{row}] AS row, {read} AS sealed FROM {table}
         WHERE ctid >= $1::tid AND ctid < $2::tid AND {column} IS NOT NULL
           AND length({read}) > 0 AND substr({read}, 1, length($3)) <> $3",
        row = column.row.join(", "),
        table = column.table,
        column = column.column,
    );
    let rows = sqlx::query(AssertSqlSafe(statement))
        .bind(format!("({from},0)"))
        .bind(format!("({to},0)"))
        .bind(prefix)
        .fetch_all(pool)
        .await?;
    let stale = |row: &sqlx::postgres::PgRow| {
        Ok(Stale {
            at: row.try_get("at")?,
            row: row.try_get("row")?,
            sealed: row.try_get("sealed")?,
        })
    };
    rows.iter().map(stale).collect()
}

/// Puts new values in the places of those that nobody has changed meanwhile; how many.
pub(crate) async fn replace(pool: &PgPool, column: &Column, news: &[(Stale, Vec<u8>)]) -> Result<u64, Error> {
    let (read, write) = as_bytes(column);
    let statement = format!(
        "UPDATE {table} t SET {column} = {write}
         FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS n (at, old, new)
         WHERE t.ctid = n.at::tid AND {read} = n.old",
        table = column.table,
        column = column.column,
    );
    let at: Vec<&str> = news.iter().map(|(stale, _)| stale.at.as_str()).collect();
    let old: Vec<&[u8]> = news.iter().map(|(stale, _)| stale.sealed.as_slice()).collect();
    let new: Vec<&[u8]> = news.iter().map(|(_, new)| new.as_slice()).collect();
    let replaced = sqlx::query(AssertSqlSafe(statement)).bind(at).bind(old).bind(new);
    Ok(replaced.execute(pool).await?.rows_affected())
}

/// How the column is read as bytes, and `n.new` written into it.
fn as_bytes(column: &Column) -> (String, &'static str) {
    match column.form {
        Form::Bytes => (column.column.to_owned(), "n.new"),
        Form::JsonText => (
            format!("decode({} #>> '{{}}', 'base64')", column.column),
            // PostgreSQL breaks lines.
            r"to_jsonb(translate(encode(n.new, 'base64'), E'\n', ''))",
        ),
    }
}

/// Waits until everything is committed or undone that was being written into the table.
pub(crate) async fn settle(pool: &PgPool, column: &Column) -> Result<(), Error> {
    let mut transaction = pool.begin().await?;
    // Who writes waits behind this one, so it must not wait for long itself.
    sqlx::query("SET LOCAL lock_timeout = '5s'")
        .execute(&mut *transaction)
        .await?;
    let statement = format!("LOCK TABLE {} IN SHARE MODE", column.table);
    sqlx::query(AssertSqlSafe(statement))
        .execute(&mut *transaction)
        .await?;
    transaction.rollback().await?;
    Ok(())
}

/// Makes this connection the only one that rotates; false when another one does.
pub(crate) async fn take_turn(connection: &mut PgConnection) -> Result<bool, Error> {
    // The number stands for "rotation" and is nobody else's.
    let taken = sqlx::query_scalar("SELECT pg_try_advisory_lock(7312002)");
    taken.fetch_one(connection).await
}

/// How many values of all `columns` begin with one of `prefixes`, at one moment.
pub(crate) async fn count_of(pool: &PgPool, columns: &[Column], prefixes: &[Vec<u8>]) -> Result<i64, Error> {
    let of = |column: &Column| {
        let (read, _) = as_bytes(column);
        format!(
            "(SELECT count(*) FROM {table} WHERE {column} IS NOT NULL AND substr({read}, 1, $1) = ANY($2))",
            table = column.table,
            column = column.column,
        )
    };
    let counts: Vec<String> = columns.iter().map(of).collect();
    let bytes = prefixes.first().map_or(0, Vec::len);
    let count = sqlx::query_scalar(AssertSqlSafe(format!("SELECT {}", counts.join(" + "))))
        .bind(bytes as i32)
        .bind(prefixes);
    count.fetch_one(pool).await
}

/// How many values each key has sealed, by what they begin with.
pub(crate) async fn count(pool: &PgPool, column: &Column, bytes: i32) -> Result<Vec<(Vec<u8>, i64)>, Error> {
    let (read, _) = as_bytes(column);
    let statement = format!(
        "SELECT substr({read}, 1, $1) AS begins, count(*) AS count FROM {table}
         WHERE {column} IS NOT NULL AND length({read}) > 0 GROUP BY 1",
        table = column.table,
        column = column.column,
    );
    let rows = sqlx::query(AssertSqlSafe(statement))
        .bind(bytes)
        .fetch_all(pool)
        .await?;
    rows.iter()
        .map(|row| Ok((row.try_get("begins")?, row.try_get("count")?)))
        .collect()
}
