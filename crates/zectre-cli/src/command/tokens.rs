//! `zectre tokens …`: API keys.

use crate::{
    args::TokensCommand,
    context::Context,
    error::CliError,
    output::Shown,
    table::{Table, age, or_dash, span},
};
use std::time::Duration;
use zectre_client::collect;
use zectre_common::{
    time::Time,
    wire::auth::{ApiKey, CreateApiKeyRequest},
};

pub(crate) async fn run(command: &TokensCommand, context: &Context) -> Result<Shown, CliError> {
    let client = &context.client;
    match command {
        TokensCommand::List => {
            let keys = collect(async |paging| client.api_keys(paging).await).await?;
            Ok(context.output.value(&keys, |keys| {
                let mut table = Table::new(["name", "prefix", "scopes", "last used", "ends", "age", "id"]);
                for key in keys {
                    let used = key.last_used_at.map(age);
                    table.row([
                        key.name.clone(),
                        key.prefix.clone(),
                        or_dash((!key.scopes.is_empty()).then(|| scopes(key))),
                        or_dash(used),
                        or_dash(key.expires_at.map(ends)),
                        age(key.created_at),
                        key.id.to_string(),
                    ]);
                }
                if table.is_empty() {
                    return context
                        .output
                        .say("You have no API keys yet. `zectre tokens create NAME` makes one.");
                }
                table.print(context.output);
            }))
        }
        TokensCommand::Create(args) => {
            let ends = |days: u32| Time::now().plus(Duration::from_secs(u64::from(days) * 24 * 3_600));
            let request = CreateApiKeyRequest {
                name: args.name.clone(),
                expires_at: args.days.map(ends),
                scopes: args.scopes.clone(),
            };
            let created = client.create_api_key(&request).await?;
            Ok(context.output.value(&created, |created| {
                context.output.data(&created.key);
                context
                    .output
                    .say("Keep it safe: it is not shown again. Use it as ZECTRE_API_KEY.");
            }))
        }
        TokensCommand::Revoke { token } => {
            let keys = collect(async |paging| client.api_keys(paging).await).await?;
            let same = |text: &str| text == token;
            let found: Vec<_> = keys
                .iter()
                .filter(|key| same(&key.name) || same(&key.prefix) || same(&key.id.to_string()))
                .collect();
            match found.as_slice() {
                [key] => {
                    client.delete_api_key(key.id).await?;
                    Ok(context.output.done(key, format!("Revoked {}", key.name)))
                }
                [] => Err(CliError::NotFound(format!(
                    "there is no API key `{token}`. `zectre tokens list` shows yours."
                ))),
                _ => Err(CliError::Usage(format!(
                    "several API keys are called `{token}`. Name one by its id; `zectre tokens list` shows them."
                ))),
            }
        }
    }
}

fn scopes(key: &ApiKey) -> String {
    let scopes: Vec<_> = key.scopes.iter().map(ToString::to_string).collect();
    scopes.join(",")
}

fn ends(at: Time) -> String {
    let now = Time::now();
    if at <= now {
        "ended".into()
    } else {
        format!("in {}", span(at.since(now)))
    }
}
