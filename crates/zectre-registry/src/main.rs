//! The artifact store, as a program.

use std::process::ExitCode;
use zectre_registry::Service;

fn main() -> ExitCode {
    zectre_service::daemon::main("zectre-registry", async |config, shutdown| {
        Service::new(&config).await?.run(shutdown).await
    })
}
