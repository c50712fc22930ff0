//! Log lines of tasks.
//!
//! A line is named by (task, sequence). A deployment's stream runs over many tasks, whose lines arrive in
//! any order: there the order is that of commit ([`Position`]), read only below the oldest transaction under
//! way, so that nothing appears behind what was already sent.

use crate::error::Error;
use sqlx::{PgConnection, PgPool};
use std::{borrow::Cow, fmt, str::FromStr};
use uuid::Uuid;
use zectre_common::{
    id::{DeploymentId, TaskId},
    time::Time,
    wire::log::{LINE_BYTES_MAX, LogLine, Stream, TaskLogLine},
};

/// Where a line lies in the stream of its deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    txid: i64,
    task_id: TaskId,
    seq: i64,
}

impl Position {
    /// Before every line.
    pub(crate) const START: Self = Self {
        txid: 0,
        task_id: TaskId::from_uuid(Uuid::nil()),
        seq: 0,
    };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.txid, self.task_id.get().simple(), self.seq)
    }
}

impl FromStr for Position {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split(':');
        let mut next = || parts.next().ok_or(());
        let position = Self {
            txid: next()?.parse().map_err(drop)?,
            task_id: TaskId::from_uuid(Uuid::try_parse(next()?).map_err(drop)?),
            seq: next()?.parse().map_err(drop)?,
        };
        if parts.next().is_some() {
            Err(())
        } else {
            Ok(position)
        }
    }
}

fn line(seq: i64, time: Time, stream: &str, message: String) -> LogLine {
    LogLine {
        seq: seq as u64,
        time,
        stream: Stream::from_stored(stream),
        message,
    }
}

/// Stores lines; those whose sequence is already there are ignored, whatever they say. How many were new.
pub(crate) async fn append(
    connection: &mut PgConnection,
    task: TaskId,
    lines: &[LogLine],
) -> Result<u64, Error> {
    // The key of a partitioned table holds the time, so it alone can't keep a sequence from being stored twice; batches
    // of one task come one after the other, and each sees those before it.
    let turn = sqlx::query!(
        "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
        task.to_string()
    );
    turn.execute(&mut *connection).await?;
    let seqs: Vec<i64> = lines.iter().map(|line| line.seq as i64).collect();
    let times: Vec<Time> = lines.iter().map(|line| line.time).collect();
    let streams: Vec<&str> = lines.iter().map(|line| line.stream.as_str()).collect();
    let messages: Vec<Cow<'_, str>> = lines.iter().map(|line| storable(&line.message)).collect();
    let messages: Vec<&str> = messages.iter().map(AsRef::as_ref).collect();
    let inserted = sqlx::query!(
        "INSERT INTO task_logs (task_id, seq, time, stream, message)
         SELECT DISTINCT ON (seq) $1::uuid, seq, time, stream, message
         FROM UNNEST($2::bigint[], $3::timestamptz[], $4::text[], $5::text[]) AS line (seq, time, stream, message)
         WHERE seq NOT IN (SELECT seq FROM task_logs WHERE task_id = $1 AND seq BETWEEN $6 AND $7)
         ORDER BY seq ON CONFLICT DO NOTHING",
        task as _,
        &seqs,
        &times as _,
        &streams as _,
        &messages as _,
        seqs.iter().min(),
        seqs.iter().max()
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    if inserted > 0 {
        sqlx::query!("SELECT pg_notify('zectre_logs', $1)", task.to_string())
            .execute(connection)
            .await?;
    }
    Ok(inserted)
}

/// PostgreSQL text holds no NUL; an overlong line is cut.
fn storable(message: &str) -> Cow<'_, str> {
    if message.len() <= LINE_BYTES_MAX && !message.contains('\0') {
        return Cow::Borrowed(message);
    }
    let mut text = message.replace('\0', "\u{fffd}");
    if text.len() > LINE_BYTES_MAX + '…'.len_utf8() {
        let cut = (0..=LINE_BYTES_MAX)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        text.truncate(cut);
        text.push('…');
    }
    Cow::Owned(text)
}

/// Lines of a task after `after`, in order.
pub(crate) async fn of_task(
    pool: &PgPool,
    task: TaskId,
    after: i64,
    limit: i64,
) -> Result<Vec<LogLine>, Error> {
    let rows = sqlx::query!(
        "SELECT seq, time, stream, message FROM task_logs WHERE task_id = $1 AND seq > $2 ORDER BY seq LIMIT $3",
        task as _,
        after,
        limit
    );
    let rows = rows.fetch_all(pool).await?;
    Ok(rows
        .into_iter()
        .map(|row| line(row.seq, row.time, &row.stream, row.message))
        .collect())
}

/// The sequence before the newest `count` lines of a task: reading after it gives exactly those.
pub(crate) async fn before_tail_of_task(pool: &PgPool, task: TaskId, count: i64) -> Result<i64, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT seq FROM task_logs WHERE task_id = $1 ORDER BY seq DESC OFFSET $2 LIMIT 1"#,
        task as _,
        count
    );
    Ok(query.fetch_optional(pool).await?.unwrap_or(0))
}

/// Lines of a deployment's tasks after `after`, in order of commit, with their positions; for a stream only
/// those before which nothing can appear any more.
pub(crate) async fn of_deployment(
    pool: &PgPool,
    deployment: DeploymentId,
    after: Position,
    limit: i64,
    for_stream: bool,
) -> Result<Vec<(Position, TaskLogLine)>, Error> {
    let rows = sqlx::query!(
        // Task by task, of each no more than are wanted of all: the others stay unread.
        r#"SELECT l.txid, l.task_id AS "task_id: TaskId", l.seq, l.time, l.stream, l.message
           FROM tasks t CROSS JOIN LATERAL (
               SELECT * FROM task_logs
               WHERE task_id = t.id AND (txid, task_id, seq) > ($2, $3, $4)
                 AND (NOT $6 OR txid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint)
               ORDER BY txid, seq LIMIT $5) AS l
           WHERE t.deployment_id = $1
           ORDER BY l.txid, l.task_id, l.seq LIMIT $5"#,
        deployment as _,
        after.txid,
        after.task_id as _,
        after.seq,
        limit,
        for_stream
    )
    .fetch_all(pool)
    .await?;
    let positioned = rows.into_iter().map(|row| {
        let position = Position {
            txid: row.txid,
            task_id: row.task_id,
            seq: row.seq,
        };
        let line = line(row.seq, row.time, &row.stream, row.message);
        (
            position,
            TaskLogLine {
                task_id: row.task_id,
                line,
            },
        )
    });
    Ok(positioned.collect())
}

/// The position before the newest `count` lines of a deployment; for a stream of those before which nothing can appear
/// any more, so that none is skipped (lines that are newer than those follow, however many).
pub(crate) async fn before_tail_of_deployment(
    pool: &PgPool,
    deployment: DeploymentId,
    count: i64,
    for_stream: bool,
) -> Result<Position, Error> {
    let row = sqlx::query!(
        r#"SELECT l.txid, l.task_id AS "task_id: TaskId", l.seq
           FROM tasks t CROSS JOIN LATERAL (
               SELECT txid, task_id, seq FROM task_logs
               WHERE task_id = t.id AND (NOT $3 OR txid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint)
               ORDER BY txid DESC, seq DESC LIMIT $2::bigint + 1) AS l
           WHERE t.deployment_id = $1
           ORDER BY l.txid DESC, l.task_id DESC, l.seq DESC OFFSET $2 LIMIT 1"#,
        deployment as _,
        count,
        for_stream
    );
    let found = row.fetch_optional(pool).await?;
    Ok(found.map_or(Position::START, |row| Position {
        txid: row.txid,
        task_id: row.task_id,
        seq: row.seq,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_the_header() {
        let position = Position {
            txid: 7,
            task_id: TaskId::new(),
            seq: 12,
        };
        assert_eq!(position.to_string().parse(), Ok(position));
        assert_eq!("7:x:1".parse::<Position>(), Err(()));
        assert_eq!(format!("{position}:1").parse::<Position>(), Err(()));
    }

    #[test]
    fn what_postgres_can_not_hold_is_replaced_and_cut() {
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
        let input = "é".repeat(LINE_BYTES_MAX);
        let long = storable(&input);
        assert!(long.len() <= LINE_BYTES_MAX + '…'.len_utf8() && long.ends_with('…'));
    }
}
