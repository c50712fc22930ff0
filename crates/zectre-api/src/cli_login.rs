//! Signing a command line in: it shows a user code, a person who is signed in somewhere else approves it, and the
//! command line, which alone knows the device code, fetches an API key once (after RFC 8628).

use crate::{
    attempts::{self, Kind},
    bootstrap::new_api_key,
    code,
    context::Context,
    error::{Error, refuse},
    identity::{Actor, enabled, fingerprint},
    let_in::LetIn,
    store::{
        account, api_key,
        change::{About, Change},
        cli_login::{self, Asked, Begun},
    },
};
use secrecy::ExposeSecret;
use std::{net::IpAddr, time::Duration};
use zectre_common::{
    id::UserId,
    time::Time,
    wire::cli_login::{CliLogin, CliToken, InitiatedCliLogin},
};
use zectre_service::key::{random_bytes, to_hex};

/// How long a person has to approve: long enough to find the browser, too short to guess a code.
const WAIT_TTL: Duration = Duration::from_secs(600);
/// Seconds between two questions of a command line.
const INTERVAL_SECS: u32 = 2;
/// How long the key of a command line holds.
const KEY_TTL: Duration = Duration::from_secs(90 * 24 * 3_600);
/// Letters that are told apart in any hand and form no words (RFC 8628, section 6.1): 20^8 codes, of which at most
/// ten thousand wait.
const ALPHABET: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const CODE_LETTERS: usize = 8;
/// User codes tried before giving up: one in millions is taken.
const CODES_TRIED_MAX: u32 = 5;

/// Begins a login of a command line.
pub(crate) async fn begin(
    context: &Context,
    actor: &Actor,
    device_name: &str,
) -> Result<InitiatedCliLogin, Error> {
    let counter = [attempts::of_address(Kind::CliLogin, actor.address)];
    context.attempts.check(&counter)?;
    context.attempts.count(&counter);
    let device_code = format!("zd_{}", to_hex(&random_bytes::<32>()));
    for _ in 0..CODES_TRIED_MAX {
        let user_code = new_user_code();
        let new = cli_login::New {
            device_hash: &fingerprint(&device_code),
            user_code: &user_code,
            device_name,
            address: actor.address,
            interval_secs: INTERVAL_SECS as i32,
            expires_at: Time::now().plus(WAIT_TTL),
        };
        match cli_login::insert(&context.pool, &new).await? {
            Begun::CodeTaken => {}
            Begun::Full => {
                return Err(Error::Refused {
                    code: &code::OVERLOADED,
                    detail: "too many command lines wait for their approval; try again in some minutes"
                        .into(),
                    errors: Vec::new(),
                    retry_after_secs: Some(60),
                });
            }
            Begun::Waits => {
                return Ok(InitiatedCliLogin {
                    device_code,
                    user_code,
                    verification_url: format!("{}/cli", context.urls.api),
                    expires_in: WAIT_TTL.as_secs() as u32,
                    interval: INTERVAL_SECS,
                });
            }
        }
    }
    Err(Error::Internal("every user code was taken".into()))
}

/// Who waits with this user code, which someone typed at this address: too many codes that nobody waits with are guesses.
pub(crate) async fn waiting(
    context: &Context,
    typed: &str,
    address: Option<IpAddr>,
) -> Result<CliLogin, Error> {
    let look = async {
        match user_code(typed) {
            Some(code) => cli_login::waiting(&context.pool, &code).await,
            None => Ok(None),
        }
    };
    let counter = [attempts::of_address(Kind::UserCode, address)];
    let found = context.attempts.guess(counter, look).await?;
    found.ok_or_else(nobody_waits)
}

/// What a person says to a command line that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It may act for them; its key ends no later than `until`, when what they approve with ends.
    Approve { until: Option<Time> },
    /// It may not.
    Deny,
}

/// Lets the command line that waits with this user code act as the user, or denies it.
pub(crate) async fn decide(
    context: &Context,
    actor: &Actor,
    (who, email): (LetIn, &str),
    typed: &str,
    decision: Decision,
) -> Result<CliLogin, Error> {
    let approved = matches!(decision, Decision::Approve { .. });
    let user = who.user();
    let actor = actor.known_as(user, email);
    let look = async {
        let Some(code) = user_code(typed) else {
            return Ok(None);
        };
        let mut change = Change::begin(&context.pool, &actor).await?;
        who.hold(&mut change).await?;
        let decided = cli_login::decide(change.connection(), &code, user, decision).await?;
        Ok(decided.map(|decided| (change, decided)))
    };
    let counter = [(Kind::UserCode, user.to_string())];
    let found = context.attempts.guess(counter, look).await?;
    let (mut change, decided) = found.ok_or_else(nobody_waits)?;
    let (action, verb) = if approved {
        ("cli_login.approved", "approved")
    } else {
        ("cli_login.denied", "denied")
    };
    let address = decided.address.as_deref().unwrap_or("an unknown address");
    let what = format!("{verb} the login of `{}` at {address}", decided.device_name);
    change.event(action, About::default(), &what).await?;
    change.commit().await?;
    Ok(decided)
}

/// The key of an approved command line, once; else why there is none (yet).
pub(crate) async fn fetch(context: &Context, actor: &Actor, device_code: &str) -> Result<CliToken, Error> {
    let ended = || {
        refuse(
            &code::DEVICE_CODE_EXPIRED,
            "this login has ended, or was fetched already; begin another one",
        )
    };
    let mut change = Change::begin(&context.pool, actor).await?;
    let asked = cli_login::ask(change.connection(), &fingerprint(device_code)).await?;
    let asked = asked.ok_or_else(ended)?;
    if asked.has_ended {
        return Err(ended());
    }
    if asked.too_soon {
        let secs = asked.interval_secs.unsigned_abs();
        change.commit().await?;
        return Err(Error::Refused {
            code: &code::SLOW_DOWN,
            detail: format!("asked too often; from now on wait {secs} s between two questions"),
            errors: Vec::new(),
            retry_after_secs: Some(secs),
        });
    }
    let user = match (asked.state.as_str(), asked.user_id) {
        ("approved", Some(user)) => user,
        ("denied", _) => {
            cli_login::delete(change.connection(), asked.id).await?;
            change.commit().await?;
            return Err(refuse(&code::ACCESS_DENIED, "this login was denied"));
        }
        _ => {
            change.commit().await?;
            return Err(refuse(
                &code::AUTHORIZATION_PENDING,
                "nobody has approved this login yet; ask again",
            ));
        }
    };
    drop(change);
    hand_over(context, actor, user, &asked).await
}

/// Makes the key, in the name of who approved.
async fn hand_over(context: &Context, actor: &Actor, user: UserId, asked: &Asked) -> Result<CliToken, Error> {
    let account = account::by_id(&context.pool, user).await?;
    let gone = || refuse(&code::ACCESS_DENIED, "the account is gone");
    let account = account.ok_or_else(gone)?;
    let actor = actor.known_as(user, &account.email);
    let mut change = Change::begin(&context.pool, &actor).await?;
    // Before what was approved, as whoever sets a password takes it back.
    let held = account::hold(change.connection(), user).await?;
    enabled(held.ok_or_else(gone)?.disabled)?;
    if !cli_login::take(change.connection(), asked.id).await? {
        return Err(refuse(
            &code::DEVICE_CODE_EXPIRED,
            "this login was fetched already; begin another one",
        ));
    }
    let ends_at = Time::now().plus(KEY_TTL);
    let (key, prefix) = new_api_key();
    let name = format!("cli: {}", asked.device_name);
    let new = api_key::New {
        user_id: user,
        name: &name,
        prefix: &prefix,
        hash: &fingerprint(key.expose_secret()),
        scopes: &[],
        expires_at: Some(asked.key_until.map_or(ends_at, |until| until.min(ends_at))),
    };
    let made = api_key::insert(change.connection(), &new).await?;
    let made = made.ok_or_else(|| {
        refuse(
            &code::TOO_MANY_API_KEYS,
            format!("the account has {} API keys; delete some", api_key::KEYS_MAX),
        )
    })?;
    let what = format!("API key `{name}` was made");
    change.event("api_key.created", About::default(), &what).await?;
    change.commit().await?;
    Ok(CliToken {
        api_key: key.expose_secret().to_owned(),
        api_key_id: made.id,
        expires_at: made.expires_at,
        user: account.into_user(),
    })
}

fn nobody_waits() -> Error {
    refuse(
        &code::USER_CODE_NOT_FOUND,
        "no command line waits with this code: it was mistyped, decided already, or has ended",
    )
}

fn new_user_code() -> String {
    let mut code = String::with_capacity(CODE_LETTERS + 1);
    while code.len() < CODE_LETTERS + 1 {
        if code.len() == CODE_LETTERS / 2 {
            code.push('-');
        }
        let [byte] = random_bytes::<1>();
        // The bytes above would make some letters likelier than others.
        if byte < 240 {
            code.push(char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
        }
    }
    code
}

/// A code as it is stored, of what a person typed.
fn user_code(typed: &str) -> Option<String> {
    if typed.len() > 4 * CODE_LETTERS {
        return None;
    }
    let letters: String = typed
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .map(|c| c.to_ascii_uppercase())
        .collect();
    let valid = letters.len() == CODE_LETTERS && letters.bytes().all(|letter| ALPHABET.contains(&letter));
    valid.then(|| {
        format!(
            "{}-{}",
            &letters[..CODE_LETTERS / 2],
            &letters[CODE_LETTERS / 2..]
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_however_it_is_typed() {
        for _ in 0..200 {
            let code = new_user_code();
            assert_eq!(code.len(), 9, "{code}");
            assert_eq!(user_code(&code).as_deref(), Some(code.as_str()));
            let typed = code.to_lowercase().replace('-', " ");
            assert_eq!(user_code(&format!(" {typed} ")), Some(code));
        }
        for bad in [
            "",
            "BCDF",
            "BCDF-GHJ",
            "BCDF-GHJKL",
            "BCDF-GHJA",
            "BCDF\0GHJK",
            "ÄBCD-FGHJ",
        ] {
            assert_eq!(user_code(bad), None, "{bad}");
        }
    }
}
