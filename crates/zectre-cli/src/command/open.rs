//! `zectre open`

use crate::{args::OpenArgs, context::Context, describe, error::CliError, output::Shown, project};
use std::{
    env,
    process::{Command, Stdio},
};

pub(crate) async fn run(args: &OpenArgs, context: &Context) -> Result<Shown, CliError> {
    let url = url(args, context).await?;
    if !context.output.json && !args.print && !browse(&url) {
        context
            .output
            .say("No browser could be opened (xdg-open is missing); the address is:");
    }
    let shown = serde_json::json!({"url": url});
    Ok(context.output.value(&shown, |_| context.output.data(&url)))
}

/// Shows `url` in a browser, where there is a display; false when there is one and no browser could be opened.
pub(super) fn browse(url: &str) -> bool {
    let has_display = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()));
    if !has_display {
        return true;
    }
    Command::new("xdg-open")
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .is_ok()
}

async fn url(args: &OpenArgs, context: &Context) -> Result<String, CliError> {
    if args.docs {
        return Ok(format!("{}/docs", context.client.base_url()));
    }
    let (app, _, deployment) = project::serving(context, &args.environment).await?;
    if describe::is_job(&deployment) {
        return Err(CliError::Usage(format!(
            "{} version {} is a job: it runs to completion and has no address. `zectre logs` shows what it printed.",
            app.name, deployment.version
        )));
    }
    if describe::speaks_tcp(&deployment) {
        return Err(CliError::Usage(format!(
            "{} version {} speaks plain TCP, which no browser shows; it answers at {}.",
            app.name,
            deployment.version,
            deployment.tcp_address.as_deref().unwrap_or("a port of its own")
        )));
    }
    Ok(match deployment.url {
        Some(url) if !args.preview => url,
        _ => deployment.preview_url,
    })
}
