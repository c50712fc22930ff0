//! What is in the database at the end.

use sqlx::{PgPool, Row};
use std::time::Duration;

pub(super) struct Stored {
    /// Numbered lines, each counted once for a task.
    pub(super) distinct: u64,
    /// Those that are there more than once.
    pub(super) doubled: u64,
    /// Tasks whose last line is there.
    pub(super) finished: u64,
    /// How long the slowest of them took to write.
    pub(super) slowest: Duration,
}

pub(super) async fn stored(pool: &PgPool) -> Stored {
    let row = sqlx::query(
        "SELECT count(*) FILTER (WHERE message ~ '^[0-9]{10} ') AS lines,
                count(DISTINCT (task_id, substr(message, 1, 10))) FILTER (WHERE message ~ '^[0-9]{10} ') AS distinct_lines,
                count(*) FILTER (WHERE message LIKE 'done %') AS finished,
                max(CASE WHEN message LIKE 'done %' THEN substr(message, 6)::bigint END) AS slowest
           FROM task_logs",
    )
    .fetch_one(pool)
    .await
    .expect("the table is there");
    let count = |column: &str| row.get::<i64, _>(column) as u64;
    Stored {
        distinct: count("distinct_lines"),
        doubled: count("lines") - count("distinct_lines"),
        finished: count("finished"),
        slowest: Duration::from_micros(row.get::<Option<i64>, _>("slowest").unwrap_or_default() as u64),
    }
}
