//! Signing in with a password: the one place that compares one, whoever asks.

use crate::{
    attempts, code,
    context::Context,
    email::EMAIL_BYTES_MAX,
    error::{Error, refuse},
    password,
    store::account::{self, Login},
};
use secrecy::{ExposeSecret, SecretString};
use std::net::IpAddr;

/// The account of this address, if the password is its own and it is not disabled. Attempts are counted, and right ones given back.
pub(crate) async fn by_password(
    context: &Context,
    email: &str,
    password: SecretString,
    client: Option<IpAddr>,
) -> Result<Login, Error> {
    let wrong = || {
        refuse(
            &code::INVALID_CREDENTIALS,
            "no account has this e-mail address and password",
        )
    };
    if email.len() > EMAIL_BYTES_MAX
        || email.contains('\0')
        || password.expose_secret().len() > password::PASSWORD_BYTES_MAX
    {
        return Err(wrong());
    }
    let counters = attempts::of_login(email, client);
    // Before the wait for a turn to hash: else whoever waits together is counted only once all have guessed.
    let pair = counters[0].clone();
    let compared = compare(context, email, password);
    let found = context
        .attempts
        .guess(counters, compared)
        .await?
        .ok_or_else(wrong)?;
    context.attempts.forgive(&pair);
    if found.disabled {
        return Err(refuse(
            &code::ACCOUNT_DISABLED,
            "an admin has disabled this account",
        ));
    }
    Ok(found)
}

/// The account of this address, if the password is its own.
async fn compare(context: &Context, email: &str, password: SecretString) -> Result<Option<Login>, Error> {
    let found = account::login(&context.pool, email).await?;
    let stored = found.as_ref().and_then(|login| login.password_hash.clone());
    let fits = password::verify(password, stored).await?;
    Ok(found.filter(|_| fits))
}
