//! The public REST API as a program.

use std::process::ExitCode;
use zectre_api::Service;

fn main() -> ExitCode {
    zectre_service::daemon::main("zectre-api", async |config, shutdown| {
        Service::new(&config).await?.run(shutdown).await
    })
}
