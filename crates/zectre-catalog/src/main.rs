//! The catalog, as a program.

use std::process::ExitCode;
use zectre_catalog::{Service, config};

fn main() -> ExitCode {
    zectre_service::daemon::main_with("zectre-catalog", &config::HOME, async |config, shutdown| {
        Service::new(&config).await?.run(shutdown).await
    })
}
