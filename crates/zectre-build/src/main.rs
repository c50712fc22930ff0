//! The build worker, as a program.

use std::process::ExitCode;
use zectre_build::Service;

fn main() -> ExitCode {
    zectre_service::daemon::main("zectre-build", async |config, shutdown| {
        Service::new(&config).await?.run(shutdown).await
    })
}
