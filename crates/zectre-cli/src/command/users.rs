//! `zectre users …`: accounts, made by an admin while nobody else may sign up.

use crate::{
    args::{NewUserArgs, UsersCommand},
    context::Context,
    error::CliError,
    output::Shown,
    prompt,
};
use secrecy::{ExposeSecret, SecretString};
use zectre_common::wire::auth::SignupRequest;

pub(crate) async fn run(command: UsersCommand, context: &Context) -> Result<Shown, CliError> {
    match command {
        UsersCommand::Add(args) => add(&args, context).await,
    }
}

async fn add(args: &NewUserArgs, context: &Context) -> Result<Shown, CliError> {
    let password = password(args).await?;
    let request = SignupRequest {
        email: args.email.clone(),
        password: password.expose_secret().to_owned(),
        name: args.name.clone(),
        is_admin: args.admin.then_some(true),
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
    if first.expose_secret() != second.expose_secret() {
        return Err(CliError::Usage(
            "the two passwords are not the same. Run the command again.".into(),
        ));
    }
    Ok(first)
}
