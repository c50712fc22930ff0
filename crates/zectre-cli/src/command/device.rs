//! `zectre login` without a password: a person approves this command line in a browser, or from one that is signed in.

use crate::{
    args::Global, context::Context, credentials::SignIn, error::CliError, output::Output, output::Shown,
};
use std::time::{Duration, Instant};
use zectre_client::{Client, ClientError, Credential};
use zectre_common::wire::cli_login::{
    ApproveCliLoginRequest, CliToken, CliTokenRequest, InitiateCliLoginRequest, InitiatedCliLogin,
};

/// The API takes no longer name of a device.
const DEVICE_NAME_CHARS_MAX: usize = 60;
/// By how much to ask more seldom, each time that the API finds it too often (RFC 8628, section 3.5).
const SLOWER_BY: Duration = Duration::from_secs(5);

/// Shows a code and waits until someone has approved it; the sign-in and whose it is.
pub(crate) async fn log_in(url: &str, output: Output) -> Result<(SignIn, String), CliError> {
    let client = Client::new(url, Credential::None)?;
    let request = InitiateCliLoginRequest {
        device_name: Some(device_name()),
    };
    let begun = client.begin_cli_login(&request).await?;
    output.say(format!(
        "Open {} and enter the code {}\n(or, where you are signed in: zectre login --approve {})",
        begun.verification_url, begun.user_code, begun.user_code
    ));
    let waiting = output.progress("Waiting for your approval");
    let token = wait(&client, &begun).await;
    drop(waiting);
    let token = token?;
    let email = token.user.email;
    let sign_in = SignIn {
        api_key: Some(token.api_key),
        api_key_id: Some(token.api_key_id),
        email: Some(email.clone()),
        ..SignIn::default()
    };
    Ok((sign_in, email))
}

async fn wait(client: &Client, begun: &InitiatedCliLogin) -> Result<CliToken, CliError> {
    let request = CliTokenRequest {
        device_code: begun.device_code.clone(),
    };
    let mut interval = Duration::from_secs(begun.interval.max(1).into());
    let ends = Instant::now() + Duration::from_secs(begun.expires_in.into());
    while Instant::now() < ends {
        // How often to ask is the API's to say.
        tokio::time::sleep(interval).await;
        let error = match client.fetch_cli_token(&request).await {
            Ok(token) => return Ok(token),
            Err(error) => error,
        };
        match error.code() {
            Some("AUTHORIZATION_PENDING") => {}
            Some("SLOW_DOWN") => interval += SLOWER_BY,
            Some("ACCESS_DENIED") => {
                return Err(CliError::Refused(
                    "The login was denied. If that was a mistake, run `zectre login` again.".into(),
                ));
            }
            Some("DEVICE_CODE_EXPIRED") => break,
            // An API that restarts meanwhile loses nothing.
            _ if matches!(
                error,
                ClientError::Unreachable { .. } | ClientError::TimedOut { .. }
            ) => {}
            _ => return Err(error.into()),
        }
    }
    Err(CliError::Refused(
        "Nobody approved the login in time. Run `zectre login` again.".into(),
    ))
}

/// `zectre login --approve CODE`: lets another command line act as whoever is signed in here.
pub(crate) async fn approve(code: &str, global: &Global, output: Output) -> Result<Shown, CliError> {
    let context = Context::new(global, output)?;
    let request = ApproveCliLoginRequest {
        user_code: code.to_owned(),
        approve: None,
    };
    let approved = context.client.approve_cli_login(&request).await?;
    let from = approved.address.as_deref().unwrap_or("an unknown address");
    let remark = format!("`{}` at {from} may act as you now", approved.device_name);
    Ok(output.done(&approved, remark))
}

/// The machine's name, as it is shown to who approves.
fn device_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain = name.chars().filter(char::is_ascii_graphic);
    plain.take(DEVICE_NAME_CHARS_MAX).collect()
}
