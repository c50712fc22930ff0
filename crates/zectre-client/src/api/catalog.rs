//! A catalog's own API: the same conventions at another address.

use super::paging::Paging;
use crate::{Client, ClientError};
use http::Method;
use zectre_common::wire::{
    catalog::{Cluster, CreateClusterRequest, Me},
    page::Page,
};

impl Client {
    /// `GET /me`, of a catalog
    pub async fn catalog_me(&self) -> Result<Me, ClientError> {
        self.get("/me", &[]).await
    }

    /// `GET /clusters`, of a catalog
    pub async fn catalog_clusters(&self, paging: Paging) -> Result<Page<Cluster>, ClientError> {
        self.get("/clusters", &paging.query()).await
    }

    /// `POST /clusters`, of a catalog
    pub async fn add_catalog_cluster(&self, request: &CreateClusterRequest) -> Result<Cluster, ClientError> {
        self.call(Method::POST, "/clusters", request).await
    }
}
