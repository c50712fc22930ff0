//! Who the caller is, and API keys.

use crate::{Client, ClientError, Paging, transport::CALL_TIMEOUT};
use http::Method;
use zectre_common::{
    id::ApiKeyId,
    wire::{
        auth::{
            ApiKey, CreateApiKeyRequest, CreatedApiKey, LoginRequest, LoginResponse, SignupRequest, User,
        },
        page::Page,
    },
};

impl Client {
    /// `POST /auth/signup`
    pub async fn sign_up(&self, request: &SignupRequest) -> Result<User, ClientError> {
        self.call(Method::POST, "/auth/signup", request).await
    }

    /// `POST /auth/login`
    pub async fn log_in(&self, request: &LoginRequest) -> Result<LoginResponse, ClientError> {
        self.call(Method::POST, "/auth/login", request).await
    }

    /// `POST /auth/logout`: ends the login token that the call carries.
    pub async fn log_out(&self) -> Result<(), ClientError> {
        let _: serde_json::Value = self.act("/auth/logout", &[], CALL_TIMEOUT).await?;
        Ok(())
    }

    /// `GET /user`
    pub async fn user(&self) -> Result<User, ClientError> {
        self.get("/user", &[]).await
    }

    /// `POST /api-keys`: the answer shows the key, once.
    pub async fn create_api_key(&self, request: &CreateApiKeyRequest) -> Result<CreatedApiKey, ClientError> {
        self.call(Method::POST, "/api-keys", request).await
    }

    /// `GET /api-keys`
    pub async fn api_keys(&self, paging: Paging) -> Result<Page<ApiKey>, ClientError> {
        self.get("/api-keys", &paging.query()).await
    }

    /// `DELETE /api-keys/{id}`
    pub async fn delete_api_key(&self, id: ApiKeyId) -> Result<(), ClientError> {
        self.delete(&format!("/api-keys/{id}"), &[]).await
    }
}
