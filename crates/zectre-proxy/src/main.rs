//! The ingress as a program of its own.

use std::process::ExitCode;
use zectre_proxy::{Service, activation::Activated};

fn main() -> ExitCode {
    // Here, because there is only one thread yet.
    let activated = Activated::from_env();
    zectre_service::daemon::main("zectre-proxy", async move |config, shutdown| {
        Service::activated(&config, activated?).await?.run(shutdown).await
    })
}
