//! What a failure of PostgreSQL means to whoever called: that it is away is no fault of theirs, nor of ours.

use crate::problem::Failure;

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        if is_away(&error) {
            let detail = "the database does not answer; try again";
            return Self::unavailable("DATABASE_UNAVAILABLE", detail, 1).because(error);
        }
        // Each input is checked where it is read; this is for the one that was forgotten.
        if has_state(&error, UNSTORABLE) {
            let detail = "a text of the request has a NUL character, which can't be stored; leave it out";
            return Self::bad_request("INVALID_INPUT", detail).because(error);
        }
        Self::internal(format!("the database failed: {error}"))
    }
}

/// SQLSTATE classes of a database that is away or busy, not wrong: 08 connection, 40 given up in favour of another transaction,
/// 53 out of connections or disk, 55000 closed to everybody, 57P shut down, terminated or starting.
const AWAY: &[&str] = &["08", "40", "53", "55000", "57P"];
/// A character that PostgreSQL's text or JSON can't hold: NUL is the only one that a Rust string can have.
const UNSTORABLE: &[&str] = &["22021", "22P05"];

fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) => true,
        sqlx::Error::Database(_) => has_state(error, AWAY),
        _ => false,
    }
}

fn has_state(error: &sqlx::Error, prefixes: &[&str]) -> bool {
    let state = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    state.is_some_and(|state| prefixes.iter().any(|prefix| state.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_away_is_not_our_fault() {
        for (error, status) in [
            (sqlx::Error::PoolTimedOut, 503),
            (sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()), 503),
            (sqlx::Error::RowNotFound, 500),
        ] {
            assert_eq!(Failure::from(error).status().as_u16(), status);
        }
    }
}
