//! The lines of a build's log: counted up from 1, never changed.

use super::builds::Claimed;
use crate::error::Error;
use sqlx::PgPool;
use zectre_common::{
    db::channel,
    id::BuildId,
    time::Time,
    wire::log::{LogLine, Stream},
};

/// The last sequence number of a build; an earlier attempt may have written some.
pub async fn last(pool: &PgPool, build: BuildId) -> Result<u64, Error> {
    let last = sqlx::query_scalar!(
        r#"SELECT coalesce(max(seq), 0) AS "last!" FROM build_logs WHERE build_id = $1"#,
        build as _
    )
    .fetch_one(pool)
    .await?;
    Ok(last as u64)
}

/// Stores a batch and tells who follows. Nothing is stored when the lease is lost; lines stored before (an
/// earlier try whose answer got lost) stay as they are.
pub async fn append(pool: &PgPool, claimed: &Claimed, lines: &[LogLine]) -> Result<(), Error> {
    let seqs: Vec<i64> = lines.iter().map(|line| line.seq as i64).collect();
    let times: Vec<Time> = lines.iter().map(|line| line.time).collect();
    let streams: Vec<String> = lines.iter().map(|line| line.stream.as_str().to_owned()).collect();
    let messages: Vec<String> = lines.iter().map(|line| line.message.clone()).collect();
    sqlx::query!(
        r#"WITH held AS (SELECT id FROM builds WHERE id = $1 AND lease_owner = $2),
           stored AS (INSERT INTO build_logs (build_id, seq, time, stream, message)
               SELECT held.id, line.seq, line.time, line.stream, line.message
               FROM held, unnest($3::bigint[], $4::timestamptz[], $5::text[], $6::text[])
                   AS line (seq, time, stream, message)
               ON CONFLICT DO NOTHING)
           SELECT pg_notify($7, id::text) AS "told!: ()" FROM held"#,
        claimed.id as _,
        claimed.lease,
        &seqs,
        &times as _,
        &streams,
        &messages,
        channel::LOGS
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The lines after `seq`, at most `limit`.
pub async fn after(pool: &PgPool, build: BuildId, seq: u64, limit: i64) -> Result<Vec<LogLine>, Error> {
    let rows = sqlx::query!(
        r#"SELECT seq, time AS "time: Time", stream, message FROM build_logs
           WHERE build_id = $1 AND seq > $2 ORDER BY seq LIMIT $3"#,
        build as _,
        i64::try_from(seq).unwrap_or(i64::MAX),
        limit
    )
    .fetch_all(pool)
    .await?;
    let line = |row: (i64, Time, String, String)| LogLine {
        seq: row.0 as u64,
        time: row.1,
        stream: Stream::from_stored(&row.2),
        message: row.3,
    };
    Ok(rows
        .into_iter()
        .map(|row| line((row.seq, row.time, row.stream, row.message)))
        .collect())
}
