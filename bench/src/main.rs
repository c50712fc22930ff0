//! Benchmarks: ours and the peer in one run, interleaved, on this machine, with the figures as they are.
//!
//! `zectre-bench [deploy] [wake]`; results are printed and, with `--record`, written to bench/RESULTS.md.

mod deploy;
mod machine;
mod native;
mod platform;
mod report;
mod sample;
mod wake;

use report::Report;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    let record = names
        .iter()
        .position(|name| name == "--record")
        .map(|at| names.remove(at))
        .is_some();
    if names.is_empty() {
        names = vec!["deploy".into(), "wake".into()];
    }
    let mut reports: Vec<Report> = Vec::new();
    for name in &names {
        match name.as_str() {
            "deploy" => reports.push(deploy::run().await),
            "wake" => reports.push(wake::run().await),
            other => {
                eprintln!("there is no benchmark `{other}`: choose from deploy, wake");
                return ExitCode::from(64);
            }
        }
    }
    let text = report::render(&machine::describe(), &reports);
    print!("{text}");
    if record {
        report::record(&text);
    }
    ExitCode::SUCCESS
}
