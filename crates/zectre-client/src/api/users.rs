//! Accounts, for admins of the cluster.

use crate::{Client, ClientError, Paging, transport::CALL_TIMEOUT};
use zectre_common::{
    id::UserId,
    wire::{
        account::{Account, PasswordReset},
        page::Page,
    },
};

impl Client {
    /// `GET /users`, of all or of the one with this address.
    pub async fn users(&self, email: Option<&str>, paging: Paging) -> Result<Page<Account>, ClientError> {
        let mut query = paging.query();
        query.extend(email.map(|email| ("email", email.to_owned())));
        self.get("/users", &query).await
    }

    /// `POST /users/{id}/disable`
    pub async fn disable_user(&self, id: UserId) -> Result<Account, ClientError> {
        self.act(&format!("/users/{id}/disable"), &[], CALL_TIMEOUT).await
    }

    /// `POST /users/{id}/enable`
    pub async fn enable_user(&self, id: UserId) -> Result<Account, ClientError> {
        self.act(&format!("/users/{id}/enable"), &[], CALL_TIMEOUT).await
    }

    /// `POST /users/{id}/reset-password`: the answer shows the token, once.
    pub async fn offer_password_reset(&self, id: UserId) -> Result<PasswordReset, ClientError> {
        self.act(&format!("/users/{id}/reset-password"), &[], CALL_TIMEOUT)
            .await
    }
}
