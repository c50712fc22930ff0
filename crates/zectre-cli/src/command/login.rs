//! `zectre login`, `logout` and `whoami`.

use crate::{
    args::{Global, LoginArgs},
    context::{Context, api_url},
    credentials::{Credentials, SignIn},
    error::CliError,
    output::Output,
    prompt,
};
use secrecy::{ExposeSecret, SecretString};
use zectre_client::{Client, Credential};
use zectre_common::wire::auth::LoginRequest;

pub(crate) async fn log_in(args: &LoginArgs, global: &Global, output: Output) -> Result<(), CliError> {
    let url = api_url(global, &Credentials::load()?);
    let (sign_in, email) = if args.with_key {
        with_key(&url).await?
    } else {
        with_password(args, &url).await?
    };
    Credentials::remember(&url, sign_in)?;
    output.say(format!("Signed in to {url} as {email}"));
    if output.json {
        output.value(&serde_json::json!({ "api_url": url, "email": email }), |_| {});
    }
    Ok(())
}

async fn with_key(url: &str) -> Result<(SignIn, String), CliError> {
    let key = prompt::secret("API key")?;
    let key = key.expose_secret().trim().to_owned();
    let client = Client::new(url, Credential::ApiKey(SecretString::from(key.clone())))?;
    // A key that doesn't work is better known now than at the next command.
    let email = client.user().await?.email;
    Ok((
        SignIn {
            api_key: Some(key),
            token: None,
            email: Some(email.clone()),
        },
        email,
    ))
}

async fn with_password(args: &LoginArgs, url: &str) -> Result<(SignIn, String), CliError> {
    let email = match &args.email {
        Some(email) => email.clone(),
        None => prompt::line("E-mail")?,
    };
    let password = prompt::secret("Password")?;
    let request = LoginRequest {
        email,
        password: password.expose_secret().to_owned(),
    };
    let answer = Client::new(url, Credential::None)?.log_in(&request).await?;
    let email = answer.user.email;
    Ok((
        SignIn {
            api_key: None,
            token: Some(answer.token),
            email: Some(email.clone()),
        },
        email,
    ))
}

pub(crate) async fn log_out(context: &Context) -> Result<(), CliError> {
    let url = context.api_url();
    let is_token = Credentials::load()?
        .apis
        .get(url)
        .is_some_and(|sign_in| sign_in.token.is_some());
    // A token ends at the platform too; an API key goes on until it is revoked.
    let ended = if is_token {
        context.client.log_out().await
    } else {
        Ok(())
    };
    let known = Credentials::forget(url)?;
    if let Err(error) = ended {
        context
            .output
            .say(format!("The token could not be ended at the platform: {error}"));
    }
    context.output.say(if known {
        format!("Signed out of {url}")
    } else {
        format!("There was no sign-in for {url}")
    });
    Ok(())
}

pub(crate) async fn whoami(context: &Context) -> Result<(), CliError> {
    let user = context.client.user().await?;
    context.output.value(&user, |user| {
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
    });
    Ok(())
}
