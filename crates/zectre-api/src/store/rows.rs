//! The two forms of reading rows, so that each table's columns, joins and conditions stand once.
//!
//! A table's own macro (`apps!`, `tasks!`, …) hands its row type, columns and tables to one of them.

use secrecy::SecretString;
use sqlx::PgPool;
use zectre_common::db::{self, DbError};
use zectre_service::token::name;

/// Connections for lists: they only read, and plan each statement for the parameters at hand. For all filters and orders of a list
/// PostgreSQL would make one plan that uses no index, and think it the cheaper one. To say so before each statement, and to end that
/// again, were three round trips more. What writes and what wakes never waits for these.
#[derive(Debug, Clone)]
pub(crate) struct Lists(pub(super) PgPool);

impl Lists {
    /// At most so many; the first is made when it is needed.
    pub(crate) fn new(url: &SecretString, connections_max: u32) -> Result<Self, DbError> {
        let options = db::options(url, name::API)?.options([
            ("plan_cache_mode", "force_custom_plan"),
            ("default_transaction_read_only", "on"),
        ]);
        Ok(Self(db::pool(connections_max).connect_lazy_with(options)))
    }
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
macro_rules! page {
    (
        $row:ty, $columns:literal, $tables:literal, $condition:literal, [$($argument:expr),* $(,)?],
        order $order:literal, [$($sort:expr),* $(,)?], $window:expr, $lists:expr
    ) => {{
        let rows = sqlx::query_as!(
            $row,
            "SELECT " + $columns + " FROM " + $tables + $condition + " ORDER BY " + $order
            $(, $argument)* $(, $sort)*, $window.limit(), $window.offset()
        );
        let total = sqlx::query_scalar!(r#"SELECT count(*) AS "n!" FROM "# + $tables + $condition $(, $argument)*);
        let mut connection = $lists.0.acquire().await?;
        let rows = rows.fetch_all(&mut *connection).await?;
        let total = total.fetch_one(&mut *connection).await?;
        (rows, total)
    }};
}

/// The same in one statement, for rows that have a place for the number (`total: Option<i64>`): `$total` finds it by the parameters of
/// the condition, where it is kept and not counted.
macro_rules! page_with_total {
    (
        $row:ty, $columns:literal, $tables:literal, $condition:literal, [$($argument:expr),* $(,)?],
        order $order:literal, [$($sort:expr),* $(,)?], $window:expr, $lists:expr,
        total $total:literal
    ) => {{
        let rows = sqlx::query_as!(
            $row,
            "SELECT " + $columns + ", (" + $total + r#") AS "total" FROM "# + $tables + $condition + " ORDER BY " + $order
            $(, $argument)* $(, $sort)*, $window.limit(), $window.offset()
        );
        let rows = rows.fetch_all(&$lists.0).await?;
        let total = match rows.first() {
            Some(row) => row.total,
            // Behind the last page nobody tells.
            None => sqlx::query_scalar!($total $(, $argument)*).fetch_one(&$lists.0).await?,
        };
        (rows, total.unwrap_or(0))
    }};
}

/// A query for rows that have a place for a list's number, which nobody asks for here.
macro_rules! some_without_total {
    ($row:ty, $columns:literal, $tables:literal, $condition:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            $row,
            "SELECT " + $columns + ", NULL::bigint AS total FROM " + $tables + $condition
            $(, $argument)*
        )
    };
}

pub(crate) use {page, page_with_total, some, some_without_total};
