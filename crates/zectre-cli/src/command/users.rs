//! `zectre users …`: accounts, managed by an admin.

use crate::{
    args::{NewUserArgs, UsersCommand},
    context::Context,
    credentials::Credentials,
    error::CliError,
    output::Shown,
    prompt,
    table::{Table, age},
};
use secrecy::{ExposeSecret, SecretString};
use zectre_client::{Paging, collect};
use zectre_common::{
    id::UserId,
    wire::{
        account::{ChangePasswordRequest, ResetPasswordRequest},
        auth::SignupRequest,
    },
};

pub(crate) async fn run(command: UsersCommand, context: &Context) -> Result<Shown, CliError> {
    match command {
        UsersCommand::List => list(context).await,
        UsersCommand::Add(args) => add(&args, context).await,
        UsersCommand::Disable { user } => {
            let id = find(&user, context).await?;
            let account = context.client.disable_user(id).await?;
            let remark = format!("Disabled {}: nothing of theirs signs in any more", account.email);
            Ok(context.output.done(&account, remark))
        }
        UsersCommand::Enable { user } => {
            let id = find(&user, context).await?;
            let account = context.client.enable_user(id).await?;
            let remark = format!(
                "Enabled {}: they have to sign in anew; API keys work again",
                account.email
            );
            Ok(context.output.done(&account, remark))
        }
        UsersCommand::ResetPassword { user } => {
            let id = find(&user, context).await?;
            let reset = context.client.offer_password_reset(id).await?;
            Ok(context.output.value(&reset, |reset| {
                context.output.data(&reset.token);
                context.output.say(format!(
                    "It holds for an hour and once. Next: {} runs `zectre users set-password --with-token --api-url {}`",
                    reset.email,
                    context.api_url()
                ));
            }))
        }
        UsersCommand::SetPassword { with_token: true } => {
            let token = prompt::secret("Token").await?;
            let request = ResetPasswordRequest {
                token: token.expose_secret().trim().to_owned(),
                new_password: new_password().await?.expose_secret().to_owned(),
            };
            let user = context.client.reset_password(&request).await?;
            let remark = format!("Set the password of {}. Next: `zectre login`", user.email);
            Ok(context.output.done(&user, remark))
        }
        UsersCommand::SetPassword { with_token: false } => set_password(context).await,
    }
}

/// Changes the password; where a login is stored here, the new one that comes with it takes its place.
async fn set_password(context: &Context) -> Result<Shown, CliError> {
    let current = prompt::secret("Password that holds").await?;
    let request = ChangePasswordRequest {
        current_password: current.expose_secret().to_owned(),
        new_password: new_password().await?.expose_secret().to_owned(),
    };
    let login = context.client.change_password(&request).await?;
    let email = login.user.email.clone();
    Credentials::renew(context.api_url(), login.token)?;
    let remark = format!("Set the password of {email}; every other login of theirs has ended");
    Ok(context.output.done(&login.user, remark))
}

/// Typed twice by a person; one line of standard input otherwise.
async fn new_password() -> Result<SecretString, CliError> {
    let first = prompt::secret("New password").await?;
    if !prompt::person_is_there() {
        return Ok(first);
    }
    let second = prompt::secret("The same again").await?;
    same(first, &second)
}

fn same(first: SecretString, second: &SecretString) -> Result<SecretString, CliError> {
    if first.expose_secret() != second.expose_secret() {
        return Err(CliError::Usage(
            "the two passwords are not the same. Run the command again.".into(),
        ));
    }
    Ok(first)
}

async fn list(context: &Context) -> Result<Shown, CliError> {
    let accounts = collect(async |paging| context.client.users(None, paging).await).await?;
    Ok(context.output.value(&accounts, |accounts| {
        let mut table = Table::new(["email", "name", "admin", "state", "age", "id"]);
        for account in accounts {
            table.row([
                account.email.clone(),
                account.name.clone(),
                if account.is_admin { "yes" } else { "no" }.into(),
                if account.disabled { "disabled" } else { "active" }.into(),
                age(account.created_at),
                account.id.to_string(),
            ]);
        }
        table.print(context.output);
    }))
}

/// An account by its id or its address.
async fn find(user: &str, context: &Context) -> Result<UserId, CliError> {
    if let Ok(id) = user.parse() {
        return Ok(id);
    }
    let found = context.client.users(Some(user), Paging::first(1)).await?;
    let first = found.data.first().map(|account| account.id);
    first.ok_or_else(|| {
        CliError::NotFound(format!(
            "there is no account {user}. `zectre users list` shows them all."
        ))
    })
}

async fn add(args: &NewUserArgs, context: &Context) -> Result<Shown, CliError> {
    let password = password(args).await?;
    let request = SignupRequest {
        email: args.email.clone(),
        password: password.expose_secret().to_owned(),
        name: args.name.clone(),
        is_admin: args.admin.then_some(true),
        invitation: None,
    };
    let user = context.client.sign_up(&request).await?;
    Ok(context.output.value(&user, |user| {
        context.output.data(user.id.to_string());
        context.output.say(format!(
            "Made the account {}\nNext: on their machine, `zectre login --api-url {} --email {}`",
            user.email,
            context.api_url(),
            user.email
        ));
    }))
}

/// From standard input when that was asked for, else typed twice.
async fn password(args: &NewUserArgs) -> Result<SecretString, CliError> {
    if args.password_stdin {
        let missing = "nothing was given on standard input. Give the password there, on one line.";
        return Ok(prompt::rest(missing.into()).await?.into());
    }
    if !prompt::person_is_there() {
        return Err(CliError::Usage(
            "nobody is there to type a password. Give it on standard input: `zectre users add EMAIL --password-stdin`.".into(),
        ));
    }
    let first = prompt::secret("Password").await?;
    let second = prompt::secret("The same again").await?;
    same(first, &second)
}
