//! Signing a command line in, and passwords.

use crate::{Client, ClientError};
use http::Method;
use zectre_common::wire::{
    account::{ChangePasswordRequest, ResetPasswordRequest},
    auth::{LoginResponse, User},
    cli_login::{
        ApproveCliLoginRequest, CliLogin, CliToken, CliTokenRequest, InitiateCliLoginRequest,
        InitiatedCliLogin,
    },
};

impl Client {
    /// `POST /auth/cli/initiate`
    pub async fn begin_cli_login(
        &self,
        request: &InitiateCliLoginRequest,
    ) -> Result<InitiatedCliLogin, ClientError> {
        self.call(Method::POST, "/auth/cli/initiate", request).await
    }

    /// `POST /auth/cli/approve`
    pub async fn approve_cli_login(&self, request: &ApproveCliLoginRequest) -> Result<CliLogin, ClientError> {
        self.call(Method::POST, "/auth/cli/approve", request).await
    }

    /// `POST /auth/cli/token`: the answer shows the key, once.
    pub async fn fetch_cli_token(&self, request: &CliTokenRequest) -> Result<CliToken, ClientError> {
        self.call(Method::POST, "/auth/cli/token", request).await
    }

    /// `POST /user/password`: every other login ends.
    pub async fn change_password(
        &self,
        request: &ChangePasswordRequest,
    ) -> Result<LoginResponse, ClientError> {
        self.call(Method::POST, "/user/password", request).await
    }

    /// `POST /auth/reset-password`, with a token from an admin.
    pub async fn reset_password(&self, request: &ResetPasswordRequest) -> Result<User, ClientError> {
        self.call(Method::POST, "/auth/reset-password", request).await
    }
}
