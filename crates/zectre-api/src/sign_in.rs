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

/// The account of this address, if the password is its own and it is not disabled. Wrong ones are counted.
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
    context.attempts.check(&counters)?;
    let found = account::login(&context.pool, email).await?;
    let stored = found.as_ref().and_then(|login| login.password_hash.clone());
    if !password::verify(password, stored).await? {
        context.attempts.count(&counters);
        return Err(wrong());
    }
    context.attempts.forgive(&counters[0]);
    let found = found.ok_or_else(wrong)?;
    if found.disabled {
        return Err(refuse(
            &code::ACCOUNT_DISABLED,
            "an admin has disabled this account",
        ));
    }
    Ok(found)
}
