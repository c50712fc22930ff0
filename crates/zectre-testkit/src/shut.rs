//! A database that lets nobody in: what is connected stays so, and nobody else is.

use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, raw_sql};

/// Lets nobody into the database of `pool` any more, or all again. That takes a connection to another one.
pub async fn admit(pool: &PgPool, all: bool) {
    let options = pool.connect_options();
    let database = options.get_database().expect("it has a name");
    let admit = format!("ALTER DATABASE \"{database}\" ALLOW_CONNECTIONS {all}");
    let elsewhere = options.as_ref().clone().database("postgres");
    let mut elsewhere = PgConnection::connect_with(&elsewhere).await.expect("it is there");
    let done = raw_sql(AssertSqlSafe(admit)).execute(&mut elsewhere).await;
    done.expect("admitted or not");
}
