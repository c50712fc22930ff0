//! The agent as a daemon of its own.

use std::process::ExitCode;
use zectre_agent::Service;

fn main() -> ExitCode {
    zectre_service::daemon::main("zectre-agent", async |config, shutdown| {
        Service::new(&config).await?.run(shutdown).await
    })
}
