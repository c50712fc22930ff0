//! `zectre-scheduler --config FILE`

fn main() -> std::process::ExitCode {
    zectre_service::daemon::main("zectre-scheduler", async |config, shutdown| {
        zectre_scheduler::Service::new(&config).await?.run(shutdown).await
    })
}
