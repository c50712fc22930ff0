//! Settings of the leader's own connections. What a leader holds in the database (the lock, a row lock of a
//! commit under way) must be free for the next one within seconds, also when this machine froze or the network
//! was cut and the server hears nothing more: the server ends such sessions by itself.

use sqlx::postgres::PgConnectOptions;

/// A server that hears nothing ends the session after about so long.
const SILENCE: [(&str, &str); 4] = [
    ("tcp_keepalives_idle", "1"),
    ("tcp_keepalives_interval", "1"),
    ("tcp_keepalives_count", "2"),
    ("tcp_user_timeout", "3000"),
];

/// For the session that holds the lock: its holder speaks every second, or loses it.
pub(super) fn of_lock(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().options(SILENCE).options([
        ("idle_session_timeout", "3000"),
        // A candidate that is gone must not win: the server looks for it while it waits.
        ("client_connection_check_interval", "1000"),
        // A wait ends now and then, so that a candidate finds out that its server is gone.
        ("lock_timeout", "5000"),
        ("statement_timeout", "8000"),
    ])
}

/// For commits: no transaction of a leader that fell silent keeps the next one out.
pub(super) fn of_commits(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().options(SILENCE).options([
        ("idle_in_transaction_session_timeout", "2000"),
        ("statement_timeout", "10000"),
        ("client_connection_check_interval", "1000"),
        // Every lookup is by primary key, and one statement serves one row as well as thousands: it is planned
        // once, and by the indexes whatever the statistics say.
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("jit", "off"),
    ])
}
