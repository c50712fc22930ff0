//! The two forms of reading rows, so that each table's columns, joins and conditions stand once.
//!
//! A table's own macro (`apps!`, `tasks!`, …) hands its row type, columns and tables to one of them.

use crate::error::Error;
use sqlx::{PgPool, Postgres, Transaction};

/// A transaction that only reads, and whose statements are planned for the parameters at hand: for all filters and orders of a list
/// PostgreSQL would make one plan that uses no index, and think it the cheaper one.
pub(crate) async fn planned(pool: &PgPool) -> Result<Transaction<'static, Postgres>, Error> {
    let begin =
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL plan_cache_mode = force_custom_plan";
    Ok(pool.begin_with(begin).await?)
}

/// A query for the rows that fulfil a condition.
macro_rules! some {
    ($row:ty, $columns:literal, $tables:literal, $condition:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            $row,
            "SELECT " + $columns + " FROM " + $tables + $condition
            $(, $argument)*
        )
    };
}

/// One page of the rows that fulfil a condition, and how many fulfil it in all: `(rows, total)`. The parameters of
/// the order follow those of the condition, and after them come the page's limit and offset.
/// Both are of one moment, and planned for their own parameters ([`planned`]). `total $total` finds the number, by the parameters of the
/// condition, where it is kept and not counted.
macro_rules! page {
    (
        $row:ty, $columns:literal, $tables:literal, $condition:literal, [$($argument:expr),* $(,)?],
        order $order:literal, [$($sort:expr),* $(,)?], $window:expr, $pool:expr
    ) => {
        $crate::store::rows::page!(
            $row, $columns, $tables, $condition, [$($argument),*], order $order, [$($sort),*], $window, $pool,
            total r#"SELECT count(*) AS "n!" FROM "# + $tables + $condition
        )
    };
    (
        $row:ty, $columns:literal, $tables:literal, $condition:literal, [$($argument:expr),* $(,)?],
        order $order:literal, [$($sort:expr),* $(,)?], $window:expr, $pool:expr,
        total $($total:tt)+
    ) => {{
        let rows = sqlx::query_as!(
            $row,
            "SELECT " + $columns + " FROM " + $tables + $condition + " ORDER BY " + $order
            $(, $argument)* $(, $sort)*, $window.limit(), $window.offset()
        );
        let total = sqlx::query_scalar!($($total)+ $(, $argument)*);
        let mut planned = crate::store::rows::planned($pool).await?;
        let rows = rows.fetch_all(&mut *planned).await?;
        let total = total.fetch_one(&mut *planned).await?;
        planned.commit().await?;
        (rows, total)
    }};
}

pub(crate) use {page, some};
