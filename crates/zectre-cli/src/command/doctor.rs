//! `zectre doctor`: what could keep the platform from working here, each with its remedy.

use crate::{context::Context, error::CliError, up};
use serde::Serialize;
use std::{
    env,
    path::{Path, PathBuf},
};

/// One thing looked at.
#[derive(Serialize)]
struct Finding {
    what: String,
    ok: bool,
    /// What to do, when it isn't.
    remedy: Option<String>,
    /// Whether the platform can't work without it.
    needed: bool,
}

impl Finding {
    fn new(what: impl Into<String>, ok: bool, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            ok,
            remedy: (!ok).then(|| remedy.into()),
            needed: true,
        }
    }

    fn optional(mut self) -> Self {
        self.needed = false;
        self
    }
}

pub(crate) async fn run(context: &Context) -> Result<(), CliError> {
    let mut findings = machine();
    findings.extend(platform(context).await);
    let missing = findings.iter().any(|finding| finding.needed && !finding.ok);
    context.output.value(&findings, |findings| {
        for finding in findings {
            let mark = match (finding.ok, finding.needed) {
                (true, _) => "ok  ",
                (false, true) => "FAIL",
                (false, false) => "note",
            };
            context.output.data(format!("{mark}  {}", finding.what));
            if let Some(remedy) = &finding.remedy {
                context.output.data(format!("      {remedy}"));
            }
        }
    });
    if missing {
        return Err(CliError::NotFound(
            "something is missing; see the remedies above.".into(),
        ));
    }
    Ok(())
}

/// What `zectre up` needs on this machine.
fn machine() -> Vec<Finding> {
    let beside = |name: &str| {
        let path = env::current_exe()
            .ok()
            .and_then(|exe| exe.parent().map(|directory| directory.join(name)));
        path.is_some_and(|path| path.is_file())
    };
    let on_path = |name: &str| {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).any(|directory: PathBuf| directory.join(name).is_file())
    };
    vec![
        Finding::new(
            "PostgreSQL is installed",
            up::postgres_installed(),
            "Run `apt-get install postgresql`.",
        ),
        Finding::new(
            "zectre-shim is beside this program (it starts tasks)",
            beside("zectre-shim"),
            "Build it with `cargo build --package zectre-agent`.",
        ),
        Finding::new(
            "zectre-tishc is beside this program (it compiles)",
            beside("zectre-tishc"),
            "Build it with `cargo build --package zectre-tishc`.",
        ),
        Finding::new(
            "cargo is installed (builds need it)",
            on_path("cargo"),
            "Install Rust from https://rustup.rs.",
        ),
        Finding::new(
            "bubblewrap is installed (it isolates builds)",
            on_path("bwrap"),
            "Run `apt-get install bubblewrap`, or set [build].sandbox = \"none\" if you trust all sources.",
        ),
        Finding::new(
            "a container engine answers (for images)",
            Path::new("/var/run/docker.sock").exists(),
            "Run `apt-get install docker.io` if you want to deploy images.",
        )
        .optional(),
    ]
}

/// What the platform says of itself.
async fn platform(context: &Context) -> Vec<Finding> {
    let url = context.api_url();
    if !context.signed_in {
        return vec![Finding::new(
            format!("signed in to {url}"),
            false,
            "Run `zectre login` (or `zectre up` on this machine).",
        )];
    }
    let status = match context.client.cluster_status().await {
        Ok(status) => status,
        Err(error) if error.status().is_some_and(|status| status < 500) => {
            return vec![Finding::new(
                format!("{url} knows this sign-in"),
                false,
                error.to_string(),
            )];
        }
        Err(error) => return vec![Finding::new(format!("{url} answers"), false, error.to_string())],
    };
    let mut findings = vec![Finding::new(
        format!("{url} answers (version {})", status.version),
        true,
        "",
    )];
    for service in status.services {
        let reasons = service.reasons.join("; ");
        findings.push(Finding::new(
            format!("{} is ready", service.name),
            service.ready,
            reasons,
        ));
    }
    let nodes = format!("{} of {} nodes are ready", status.nodes_ready, status.nodes_total);
    findings.push(Finding::new(
        nodes,
        status.nodes_ready > 0,
        "Start an agent: `zectre nodes join` says how.",
    ));
    findings
}
