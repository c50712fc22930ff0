//! The two forms of reading rows, so that each table's columns, joins and conditions stand once.
//!
//! A table's own macro (`apps!`, `tasks!`, …) hands its row type, columns and tables to one of them.

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
        order $order:literal, [$($sort:expr),* $(,)?], $window:expr, $pool:expr
    ) => {{
        let rows = sqlx::query_as!(
            $row,
            "SELECT " + $columns + " FROM " + $tables + $condition + " ORDER BY " + $order
            $(, $argument)* $(, $sort)*, $window.limit(), $window.offset()
        );
        let total = sqlx::query_scalar!(
            r#"SELECT count(*) AS "n!" FROM "# + $tables + $condition
            $(, $argument)*
        );
        (rows.fetch_all($pool).await?, total.fetch_one($pool).await?)
    }};
}

pub(crate) use {page, some};
