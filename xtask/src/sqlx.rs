//! Renews `.sqlx`: the checked queries are described by a real, migrated PostgreSQL, and what it says is committed.
//!
//! The platform's queries are in `.sqlx` at the root. A crate with a database of its own says so in its `sqlx.toml`
//! (`database-url-var`) and has a `.sqlx` of its own, which the macros look into first: so one text may mean
//! different things in two schemas.

use crate::{
    fail::Fail,
    packages,
    run::{cargo, output, root, step},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

/// Crates with a database of their own, and the variable in which their `sqlx.toml` expects its URL.
const APART: &[(&str, &str)] = &[("zectre-catalog", "CATALOG_DATABASE_URL")];

/// Checks every query against a freshly migrated database and replaces the committed data.
pub(crate) fn renew() -> Result<(), Fail> {
    packages::install(&[packages::POSTGRESQL])?;
    let mut check: Command = cargo();
    check.args(["check", "--workspace", "--all-targets"]);
    for (krate, _) in APART {
        check.args(["--exclude", krate]);
    }
    check.env("DATABASE_URL", scratch_database(None)?);
    let platform = |krate: &str| !APART.iter().any(|(apart, _)| *apart == krate);
    describe(&mut check, &root().join(".sqlx"), "the platform's", platform)?;
    for (krate, variable) in APART {
        let home = root().join("crates").join(krate);
        let mut check: Command = cargo();
        check.args(["check", "--all-targets", "--package", krate]);
        check.env(variable, scratch_database(Some(&home.join("migrations")))?);
        describe(&mut check, &home.join(".sqlx"), krate, |name| name == *krate)?;
    }
    Ok(())
}

/// Runs `check` online and puts what it writes in the place of `data`.
fn describe(
    check: &mut Command,
    data: &Path,
    whose: &str,
    concerns: impl Fn(&str) -> bool,
) -> Result<(), Fail> {
    let io = |error: std::io::Error| Fail::new(format!("{} can't be renewed: {error}", data.display()));
    let fresh = root().join("target/sqlx-fresh");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh).map_err(io)?;
    touch(concerns).map_err(io)?;
    check.env("SQLX_OFFLINE", "false").env("SQLX_OFFLINE_DIR", &fresh);
    step(&format!("check every query against PostgreSQL ({whose})"), check)?;
    let _ = fs::remove_dir_all(data);
    fs::rename(&fresh, data).map_err(io)?;
    let count = fs::read_dir(data).map_err(io)?.count();
    eprintln!(
        "{count} queries described in {}: commit them with the change",
        data.display()
    );
    Ok(())
}

/// The macros write only while their crate is compiled: makes cargo compile each crate that has queries.
fn touch(concerns: impl Fn(&str) -> bool) -> std::io::Result<()> {
    for krate in fs::read_dir(root().join("crates"))?.flatten() {
        let lib: PathBuf = krate.path().join("src/lib.rs");
        let concerned = krate.file_name().to_str().is_some_and(&concerns);
        if concerned && krate.path().join("sqlx.toml").exists() && lib.is_file() {
            fs::File::options()
                .append(true)
                .open(&lib)?
                .set_modified(SystemTime::now())?;
        }
    }
    Ok(())
}

/// The URL of a fresh database: with the platform's schema, or with that of `migrations`.
fn scratch_database(migrations: Option<&Path>) -> Result<String, Fail> {
    let mut scratch = cargo();
    scratch.args([
        "run",
        "--quiet",
        "--package",
        "zectre-testkit",
        "--bin",
        "scratch-database",
    ]);
    if let Some(migrations) = migrations {
        scratch.arg("--").arg(migrations);
    }
    output(&mut scratch)
}
