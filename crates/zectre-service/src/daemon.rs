//! A service as a program: flags, configuration, logs, signals, exit code.

use crate::{log, open_files, problem::chain, tasks::Shutdown};
use std::{
    error::Error as StdError,
    future::Future,
    path::{Path, PathBuf},
    process::ExitCode,
};
use tokio::signal::unix::{SignalKind, signal};
use zectre_common::config::{Config, ConfigError, LogFormat};

/// The configuration is wrong (sysexits.h: `EX_USAGE`).
pub const EXIT_CONFIG: u8 = 64;
/// The service failed (sysexits.h: `EX_SOFTWARE`).
pub const EXIT_FAILED: u8 = 70;

/// Runs the daemon `name`: configuration is checked before anything else happens.
pub fn main<F, R, E>(name: &'static str, run: F) -> ExitCode
where
    F: FnOnce(Config, Shutdown) -> R,
    R: Future<Output = Result<(), E>>,
    E: StdError,
{
    let home = Home {
        file: zectre_common::config::SYSTEM_FILE,
        load: Config::load,
        logs: |config: &Config| (&config.logs.filter, config.logs.format),
    };
    main_with(name, &home, run)
}

/// Where a daemon's configuration `C` comes from.
pub struct Home<C> {
    /// The file that is read when none is named, for `--help`.
    pub file: &'static str,
    /// Reads and checks it.
    pub load: fn(Option<&Path>) -> Result<C, ConfigError>,
    /// The logs' filter and format in it.
    pub logs: fn(&C) -> (&str, LogFormat),
}

/// Like [`main`], for a daemon with a configuration of its own.
pub fn main_with<C, F, R, E>(name: &'static str, home: &Home<C>, run: F) -> ExitCode
where
    F: FnOnce(C, Shutdown) -> R,
    R: Future<Output = Result<(), E>>,
    E: StdError,
{
    let config = match (home.load)(flags(name, home.file).as_deref()) {
        Ok(config) => config,
        Err(error) => return fail(name, &error, EXIT_CONFIG),
    };
    let (filter, format) = (home.logs)(&config);
    if let Err(error) = log::init(filter, format) {
        return fail(name, &error, EXIT_CONFIG);
    }
    open_files::raise();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(name, &error, EXIT_FAILED),
    };
    runtime.block_on(async {
        let shutdown = Shutdown::new();
        let result = tokio::select! {
            result = run(config, shutdown.clone()) => result,
            never = request_on_signal(shutdown.clone()) => match never {},
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(name, &error, EXIT_FAILED),
        }
    })
}

/// Requests `shutdown` at the first SIGTERM or SIGINT; never ends.
async fn request_on_signal(shutdown: Shutdown) -> std::convert::Infallible {
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be caught");
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be caught");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    shutdown.request();
    std::future::pending().await
}

fn flags(name: &'static str, file: &str) -> Option<PathBuf> {
    let config = clap::Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help(format!("Configuration file; default {file} where it exists"));
    let command = clap::Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .arg(config);
    command.get_matches().get_one::<PathBuf>("config").cloned()
}

fn fail(name: &str, error: &dyn StdError, code: u8) -> ExitCode {
    eprintln!("{name}: {}", chain(error));
    ExitCode::from(code)
}
