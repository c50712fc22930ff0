//! Renews `.sqlx`: the checked queries are described by a real, migrated PostgreSQL, and what it says is committed.

use crate::{
    fail::Fail,
    packages,
    run::{cargo, root, step},
};
use std::{fs, process::Command, time::SystemTime};

/// Checks every query against a freshly migrated database and replaces the committed data.
pub(crate) fn renew() -> Result<(), Fail> {
    packages::install(&[packages::POSTGRESQL])?;
    let url = crate::run::output(cargo().args([
        "run",
        "--quiet",
        "--package",
        "zectre-testkit",
        "--bin",
        "scratch-database",
    ]))?;
    let data = root().join(".sqlx");
    let io = |error: std::io::Error| Fail::new(format!("{} can't be renewed: {error}", data.display()));
    let fresh = root().join("target/sqlx-fresh");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh).map_err(io)?;
    // The macros write only while their crate is compiled: make cargo compile each crate that has queries.
    for krate in fs::read_dir(root().join("crates")).map_err(io)?.flatten() {
        let lib = krate.path().join("src/lib.rs");
        if krate.path().join("sqlx.toml").exists() && lib.is_file() {
            fs::File::options()
                .append(true)
                .open(&lib)
                .and_then(|file| file.set_modified(SystemTime::now()))
                .map_err(io)?;
        }
    }
    let mut check: Command = cargo();
    check.args(["check", "--workspace", "--all-targets"]);
    check
        .env("DATABASE_URL", &url)
        .env("SQLX_OFFLINE", "false")
        .env("SQLX_OFFLINE_DIR", &fresh);
    step("check every query against PostgreSQL", &mut check)?;
    let _ = fs::remove_dir_all(&data);
    fs::rename(&fresh, &data).map_err(io)?;
    let count = fs::read_dir(&data).map_err(io)?.count();
    eprintln!("{count} queries described in .sqlx: commit them with the change");
    Ok(())
}
