//! `zectre login`, `logout` and `whoami`.

use super::device;
use crate::{
    args::{Global, LoginArgs},
    context::{Context, api_url},
    credentials::{Credentials, SignIn},
    error::CliError,
    output::{Output, Shown},
    prompt,
};
use secrecy::{ExposeSecret, SecretString};
use zectre_client::{Client, Credential};
use zectre_common::wire::auth::LoginRequest;

pub(crate) async fn log_in(args: &LoginArgs, global: &Global, output: Output) -> Result<Shown, CliError> {
    if let Some(code) = &args.approve {
        return device::approve(code, global, output).await;
    }
    let url = api_url(global, &Credentials::load()?);
    let (sign_in, email) = if args.with_key {
        with_key(&url).await?
    } else if args.legacy_platform_login || args.email.is_some() {
        with_password(args, &url).await?
    } else {
        device::log_in(&url, output).await?
    };
    Credentials::remember(&url, sign_in)?;
    let done = serde_json::json!({"api_url": url, "email": email});
    Ok(output.done(&done, format!("Signed in to {url} as {email}")))
}

async fn with_key(url: &str) -> Result<(SignIn, String), CliError> {
    let key = prompt::secret("API key").await?;
    let key = key.expose_secret().trim().to_owned();
    let client = Client::new(url, Credential::ApiKey(SecretString::from(key.clone())))?;
    // A key that doesn't work is better known now than at the next command.
    let email = match client.user().await {
        Err(error) if error.status() == Some(401) => {
            return Err(CliError::Refused(format!(
                "{url} does not know this API key. Check that it is whole and was not revoked; `zectre tokens create NAME` makes \
                 a new one where you are signed in."
            )));
        }
        user => user?.email,
    };
    Ok((
        SignIn {
            api_key: Some(key),
            email: Some(email.clone()),
            ..SignIn::default()
        },
        email,
    ))
}

async fn with_password(args: &LoginArgs, url: &str) -> Result<(SignIn, String), CliError> {
    let email = match &args.email {
        Some(email) => email.clone(),
        None => prompt::line("E-mail").await?,
    };
    let password = prompt::secret("Password").await?;
    let request = LoginRequest {
        email,
        password: password.expose_secret().to_owned(),
    };
    let answer = Client::new(url, Credential::None)?.log_in(&request).await?;
    let email = answer.user.email;
    Ok((
        SignIn {
            token: Some(answer.token),
            email: Some(email.clone()),
            ..SignIn::default()
        },
        email,
    ))
}

pub(crate) async fn log_out(context: &Context) -> Result<Shown, CliError> {
    let url = context.api_url();
    let stored = Credentials::load()?.apis.remove(url).unwrap_or_default();
    // What was made for this sign-in ends at the platform too; another API key goes on until it is revoked.
    let ended = match (stored.api_key_id, &stored.token) {
        (Some(id), _) => context.client.delete_api_key(id).await,
        (None, Some(_)) => context.client.log_out().await,
        (None, None) => Ok(()),
    };
    let known = Credentials::forget(url)?;
    if let Err(error) = ended {
        context
            .output
            .say(format!("The sign-in could not be ended at the platform: {error}"));
    }
    let remark = if known {
        format!("Signed out of {url}")
    } else {
        format!("There was no sign-in for {url}")
    };
    let done = serde_json::json!({"api_url": url, "was_signed_in": known});
    Ok(context.output.done(&done, remark))
}

pub(crate) async fn whoami(context: &Context) -> Result<Shown, CliError> {
    let user = context.client.user().await?;
    Ok(context.output.value(&user, |user| {
        let role = if user.is_admin {
            ", admin of the cluster"
        } else {
            ""
        };
        context
            .output
            .data(format!("{} ({}{role})", user.email, context.api_url()));
        for membership in &user.memberships {
            context
                .output
                .data(format!("  {}: {}", membership.organization, membership.role));
        }
    }))
}
