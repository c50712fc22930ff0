//! `zectre bootstrap`: the first admin of a cluster of separate daemons, straight from its database.
//!
//! `zectre up` does the same by itself; here whoever holds the configuration file holds the cluster.

use crate::{
    args::BootstrapArgs,
    error::CliError,
    output::{Output, Shown},
    up,
};
use secrecy::ExposeSecret;
use zectre_common::config::Config;

pub(crate) async fn run(args: &BootstrapArgs, output: Output) -> Result<Shown, CliError> {
    let config = Config::load(args.config.as_deref())?;
    let local = up::bootstrap(&config.database.url, None).await?;
    let shown = serde_json::json!({
        "email": local.email,
        "api_key": local.api_key.expose_secret(),
        "join_token": local.join_token.expose_secret(),
        "api_url": config.api.public_url,
    });
    Ok(output.value(&shown, |_| {
        output.data(format!("admin       {}", local.email));
        output.data(format!("API key     {}", local.api_key.expose_secret()));
        output.data(format!("join token  {}", local.join_token.expose_secret()));
        output.say(format!(
            "\nThe key replaces the one made here before, and neither is shown again.\n\
             Sign in:     zectre login --with-key --api-url {}\n\
             Join a node: set ZECTRE__AGENT__JOIN_TOKEN for zectre-agent, within ten minutes",
            config.api.public_url
        ));
    }))
}
