//! Passwords: argon2id, off the runtime, a few at a time.
//!
//! An unknown address costs the same work as a wrong password, so the time of an answer tells nothing.

use crate::{code, error::Error};
use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use secrecy::{ExposeSecret, SecretString};
use std::{sync::OnceLock, time::Duration};
use tokio::sync::Semaphore;

/// Characters a password must have.
pub(crate) const PASSWORD_CHARS_MIN: usize = 8;
/// A longer one only costs work.
pub(crate) const PASSWORD_BYTES_MAX: usize = 1_024;
/// Hashes at once: each takes 19 MiB and a core for tens of milliseconds.
const HASHES_AT_ONCE: usize = 2;
/// How long a login waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

static TURNS: Semaphore = Semaphore::const_new(HASHES_AT_ONCE);
static NOBODYS_HASH: OnceLock<String> = OnceLock::new();

fn hash_now(password: &str) -> Result<String, Error> {
    Argon2::default()
        .hash_password(password.as_bytes())
        .map(|hash| hash.to_string())
        .map_err(|error| Error::Internal(format!("could not hash a password: {error}")))
}

/// Does `work` off the runtime when its turn comes. The turn ends with the work, not with whoever waits for it: a client that hangs up
/// takes its request along, but no hash that has begun.
async fn work<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let turn = tokio::time::timeout(TURN_TIMEOUT, TURNS.acquire()).await;
    let Ok(Ok(turn)) = turn else {
        return Err(Error::Refused {
            code: &code::OVERLOADED,
            detail: "too many logins at once; try again".into(),
            errors: Vec::new(),
            retry_after_secs: Some(1),
        });
    };
    let worked = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    worked
        .await
        .map_err(|error| Error::Internal(format!("a hash was cut off: {error}")))?
}

/// The hash to store.
pub(crate) async fn hash(password: SecretString) -> Result<String, Error> {
    work(move || hash_now(password.expose_secret())).await
}

/// Whether the password fits `stored`; without one (no such account, or no password) it never does.
pub(crate) async fn verify(password: SecretString, stored: Option<String>) -> Result<bool, Error> {
    work(move || {
        let known = stored.is_some();
        let stored = match stored {
            Some(stored) => stored,
            None => match NOBODYS_HASH.get() {
                Some(hash) => hash.clone(),
                None => NOBODYS_HASH
                    .get_or_init(|| hash_now("nobody's password").unwrap_or_default())
                    .clone(),
            },
        };
        let parsed = PasswordHash::new(&stored)
            .map_err(|error| Error::Internal(format!("a stored password hash is damaged: {error}")))?;
        Ok(Argon2::default()
            .verify_password(password.expose_secret().as_bytes(), &parsed)
            .is_ok()
            && known)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Of the whole process: no other test hashes meanwhile, since each has a process of its own (nextest) or waits for its turn.
    #[tokio::test]
    async fn whoever_hangs_up_leaves_its_hash_in_its_turn() {
        let mut releases = Vec::new();
        for _ in 0..HASHES_AT_ONCE {
            let (release, released) = mpsc::channel::<()>();
            let (begin, begun) = tokio::sync::oneshot::channel();
            let request = work(move || {
                let _ = begin.send(());
                // Ends when the test lets go of it.
                let _ = released.recv();
                Ok(())
            });
            // The request is dropped when its hash has begun.
            tokio::select! {
                _ = request => panic!("it ended before the test let go of it"),
                begun = begun => begun.expect("the hash begins"),
            }
            releases.push(release);
        }
        assert_eq!(TURNS.available_permits(), 0, "both hashes still go on");
        drop(releases);
        assert!(hash("long enough".to_owned().into()).await.is_ok());
    }
}
