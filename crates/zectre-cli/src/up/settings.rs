//! The configuration of a one-machine platform: the user's, with everything local filled in.

use super::{
    data_dir::{AGENT_DIR, DataDir},
    error::UpError,
    keys,
};
use crate::error::CliError;
use secrecy::{ExposeSecret, SecretString};
use std::{
    fs::{self, OpenOptions},
    os::unix::{fs::OpenOptionsExt, net::UnixStream},
    path::Path,
    sync::Arc,
};
use toml::{Table, Value};
use zectre_common::config::Config;

/// A log larger than this is set aside at the next start.
const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The user's configuration alone: enough to check it, and its ports, before anything is touched.
pub(super) fn preview(file: Option<&Path>) -> Result<Config, CliError> {
    Ok(Config::load(file)?)
}

/// The configuration all services get, but for the join token, which is made with it.
pub(super) fn load(
    file: Option<&Path>,
    data: &DataDir,
    database_url: &SecretString,
) -> Result<Config, CliError> {
    let user = preview(file)?;
    let keys = keys::files(data)?;
    let path = |path: &Path| Value::String(path.to_string_lossy().into_owned());
    let text = |text: &str| Value::String(text.to_owned());
    let local = |port: u16| Value::String(format!("http://127.0.0.1:{port}"));
    // Closed: a task must not reach the locks and the libraries that builds share.
    let build = data.directory("build", 0o700)?;
    let mut all = vec![
        ("database.url", text(database_url.expose_secret())),
        ("agent.data_dir", path(&data.directory(AGENT_DIR, 0o711)?)),
        ("registry.store", path(&data.directory("registry", 0o700)?)),
        ("build.cache_dir", path(&build.join("cache"))),
        ("build.work_dir", path(&build.join("work"))),
        (
            "proxy.snapshot_path",
            path(&data.directory("proxy", 0o700)?.join("routes.json")),
        ),
        ("secrets.service_key_file", path(&keys.service)),
        ("secrets.token_key_file", path(&keys.token)),
        ("secrets.master_key_file", path(&keys.master)),
        ("secrets.metrics_token_file", path(&keys.metrics)),
        // Addresses follow the ports, which may have been changed.
        (
            "api.public_url",
            text(&format!("http://localhost:{}", user.api.port)),
        ),
        ("agent.scheduler_address", local(user.scheduler.port)),
        ("scheduler.public_url", local(user.scheduler.port)),
        ("registry.public_url", local(user.registry.port)),
        ("build.public_url", local(user.build.port)),
    ];
    if UnixStream::connect(&user.agent.container_socket).is_ok() {
        all.push(("agent.container_enabled", Value::Boolean(true)));
    }
    Ok(Config::load_with(file, &sections(all).to_string())?)
}

/// `section.key` and its value, as TOML has it.
fn sections(all: Vec<(&str, Value)>) -> Table {
    let mut sections = Table::new();
    for (path, value) in all {
        let (section, key) = path.split_once('.').expect("every path above has a section");
        let section = sections
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        section
            .as_table_mut()
            .expect("only sections are put there")
            .insert(key.into(), value);
    }
    sections
}

/// All services log to one file in the data directory: the terminal is for what a person must know.
pub(super) fn init_log(config: &Config, data: &DataDir) -> Result<(), CliError> {
    let path = data.log_path();
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        let _ = fs::rename(&path, path.with_extension("log.1"));
    }
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(&path);
    let file = Arc::new(file.map_err(UpError::at(path, "opened"))?);
    zectre_service::log::init_to(&config.logs.filter, config.logs.format, file, false)
        .map_err(|error| CliError::Usage(error.to_string()))
}
