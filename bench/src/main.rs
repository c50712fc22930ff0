//! Benchmarks: ours and the peer in one run, interleaved, on this machine, with the figures as they are.
//!
//! `zectre-bench [deploy] [wake] [logs] [proxy] [schedule] [api]`; results are printed and, with `--record`, written to bench/RESULTS.md.
//! `schedule` takes `--tasks`, `--nodes`, `--replicas`, `--decision-nodes` and `--heartbeat-ms` for smaller runs,
//! `logs` takes `--lines-per-sec` and `--log-secs`, `proxy` takes `--rounds` and `--round-secs`,
//! `api` takes `--apps`, `--deployments` and `--log-lines`, and leaves plans of its statements with `--plans`.

mod api;
mod deploy;
mod logs;
mod machine;
mod native;
mod options;
mod phases;
mod platform;
mod postgres;
mod proxy;
mod report;
mod sample;
mod schedule;
mod usage;
mod wake;

use options::Options;
use report::Report;
use std::process::ExitCode;

/// Those that run when none is named.
const ALL: &[&str] = &["deploy", "wake", "logs", "proxy", "schedule", "api"];

#[tokio::main]
async fn main() -> ExitCode {
    let mut options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(64);
        }
    };
    if options.names.is_empty() {
        options.names = ALL.iter().map(ToString::to_string).collect();
    }
    if let Some(unknown) = options.names.iter().find(|name| !ALL.contains(&name.as_str())) {
        eprintln!(
            "there is no benchmark `{unknown}`: choose from {}",
            ALL.join(", ")
        );
        return ExitCode::from(64);
    }
    let mut reports: Vec<Report> = Vec::new();
    for name in &options.names {
        reports.push(match name.as_str() {
            "deploy" => deploy::run().await,
            "wake" => wake::run().await,
            "logs" => logs::run(&options).await,
            "proxy" => proxy::run(&options).await,
            "api" => api::run(&options).await,
            _ => schedule::run(&options).await,
        });
    }
    let text = report::render(&machine::describe(), &reports);
    print!("{text}");
    if options.record {
        report::record(&text);
    }
    ExitCode::SUCCESS
}
