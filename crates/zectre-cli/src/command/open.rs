//! `zectre open`

use crate::{args::OpenArgs, context::Context, error::CliError, project};
use std::{
    env,
    process::{Command, Stdio},
};

pub(crate) async fn run(args: &OpenArgs, context: &Context) -> Result<(), CliError> {
    let url = url(args, context).await?;
    let has_display = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()));
    if has_display && !context.output.json && !args.print {
        let opened = Command::new("xdg-open")
            .arg(&url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if opened.is_err() {
            context
                .output
                .say("No browser could be opened (xdg-open is missing); the address is:");
        }
    }
    context.output.value(&url, |url| context.output.data(url));
    Ok(())
}

async fn url(args: &OpenArgs, context: &Context) -> Result<String, CliError> {
    if args.docs {
        return Ok(format!("{}/docs", context.client.base_url()));
    }
    let (_, _, deployment) = project::serving(context, &args.environment).await?;
    Ok(match deployment.url {
        Some(url) if !args.preview => url,
        _ => deployment.preview_url,
    })
}
