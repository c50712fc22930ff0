//! The ingress as a program of its own.

use std::process::ExitCode;
use zectre_proxy::Service;

fn main() -> ExitCode {
    zectre_service::daemon::main("zectre-proxy", async |config, shutdown| {
        Service::new(&config).await?.run(shutdown).await
    })
}
