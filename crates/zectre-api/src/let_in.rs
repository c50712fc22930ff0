//! Whether what someone was let in with still holds when they make a key of it.
//!
//! The guard decides before a request's body is read, and a password is compared while others wait for their turns: what ends
//! meanwhile must leave no key behind. So who makes one holds the account first, as who ends its logins does, and looks again.

use crate::{
    code,
    error::{Error, refuse},
    identity::{Credential, Person, enabled},
    store::{account, api_key, change::Change},
};
use uuid::Uuid;
use zectre_common::id::{ApiKeyId, UserId};

/// What someone was let in with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LetIn {
    user: UserId,
    with: Proof,
}

#[derive(Debug, Clone, Copy)]
enum Proof {
    /// A password of this epoch of logins.
    Password(i64),
    /// A token of this epoch, and its id.
    Token(i64, Uuid),
    /// An API key, which outlives passwords.
    Key(ApiKeyId),
}

impl LetIn {
    /// As the guard let them in.
    pub(crate) fn of(person: &Person) -> Self {
        let with = match person.credential {
            Credential::Login { token_id, .. } => Proof::Token(person.login_epoch, token_id),
            Credential::ApiKey { id, .. } => Proof::Key(id),
        };
        Self {
            user: person.id,
            with,
        }
    }

    /// By a password that was compared.
    pub(crate) fn by_password(login: &account::Login) -> Self {
        Self {
            user: login.id,
            with: Proof::Password(login.epoch),
        }
    }

    /// Who.
    pub(crate) fn user(&self) -> UserId {
        self.user
    }

    /// Holds the account until the change ends; refuses where what they were let in with has ended.
    pub(crate) async fn hold(&self, change: &mut Change<'_>) -> Result<(), Error> {
        let connection = change.connection();
        let ended = || {
            refuse(
                &code::UNAUTHENTICATED,
                "the login or the API key was ended while the request was on its way; log in again",
            )
        };
        let account = account::hold(connection, self.user).await?.ok_or_else(ended)?;
        enabled(account.disabled)?;
        let holds = match self.with {
            Proof::Password(epoch) => epoch == account.login_epoch,
            Proof::Token(epoch, id) => {
                epoch == account.login_epoch && !account::is_revoked(connection, id).await?
            }
            Proof::Key(id) => api_key::holds(connection, self.user, id).await?,
        };
        holds.then_some(()).ok_or_else(ended)
    }
}
