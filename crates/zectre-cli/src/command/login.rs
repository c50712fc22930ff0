//! `zectre login`, `logout` and `whoami`.

use super::{catalog_login, device};
use crate::{
    args::{Global, LoginArgs},
    catalog::Catalog,
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
    let by_platform = args.with_key || args.legacy_platform_login || args.email.is_some();
    let catalog = args.catalog.catalog.as_deref().filter(|url| !url.is_empty());
    if let Some(catalog) = catalog.filter(|_| !by_platform) {
        return catalog_login::log_in(catalog, args, output).await;
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
    let mut all = Credentials::load()?;
    let stored = all.apis.remove(url).unwrap_or_default();
    let catalog = match &stored.catalog {
        Some(origin) => Some(origin.url.clone()),
        // Nothing else to sign out of.
        None if stored.api_key.is_none() && stored.token.is_none() => all.catalog,
        None => None,
    };
    if let Some(url) = catalog {
        return log_out_of_catalog(&Catalog { url }, context).await;
    }
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

async fn log_out_of_catalog(catalog: &Catalog, context: &Context) -> Result<Shown, CliError> {
    let (known, failed) = catalog.sign_out().await?;
    if let Some(error) = failed {
        context
            .output
            .say(format!("The sign-in could not be ended at the catalog: {error}"));
    }
    let done = serde_json::json!({"catalog_url": catalog.url, "was_signed_in": known});
    let remark = format!("Signed out of {} and its clusters", catalog.url);
    Ok(context.output.done(&done, remark))
}

/// Who one is at the catalog, where there is a sign-in at one and none at the API.
async fn whoami_at(catalog: &Catalog, context: &Context) -> Result<Shown, CliError> {
    let me = catalog.client().await?.catalog_me().await?;
    Ok(context.output.value(&me, |me| {
        context.output.data(format!("{} ({})", me.email, catalog.url));
        for org in &me.orgs {
            context.output.data(format!("  {}: {}", org.slug, org.role));
        }
    }))
}

pub(crate) async fn whoami(context: &Context) -> Result<Shown, CliError> {
    if !context.signed_in && Credentials::load()?.catalog.is_some() {
        return whoami_at(&Catalog::named(None)?, context).await;
    }
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
