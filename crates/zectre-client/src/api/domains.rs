//! Custom domains.

use super::apps::segment;
use crate::{Client, ClientError, Paging, transport::CALL_TIMEOUT};
use http::Method;
use zectre_common::{
    id::ApplicationId,
    wire::{
        domain::{CreateCustomDomainRequest, CustomDomain},
        page::Page,
    },
};

impl Client {
    /// `GET /apps/{id}/custom-domains`
    pub async fn custom_domains(
        &self,
        id: ApplicationId,
        paging: Paging,
    ) -> Result<Page<CustomDomain>, ClientError> {
        let mut query = paging.query();
        query.push(("sort_by", "domain".into()));
        self.get(&format!("/apps/{id}/custom-domains"), &query).await
    }

    /// `POST /apps/{id}/custom-domains`
    pub async fn create_custom_domain(
        &self,
        id: ApplicationId,
        request: &CreateCustomDomainRequest,
    ) -> Result<CustomDomain, ClientError> {
        self.call(Method::POST, &format!("/apps/{id}/custom-domains"), request)
            .await
    }

    /// `POST /apps/{id}/custom-domains/{domain}/verify`
    pub async fn verify_custom_domain(
        &self,
        id: ApplicationId,
        domain: &str,
    ) -> Result<CustomDomain, ClientError> {
        let path = format!("/apps/{id}/custom-domains/{}/verify", segment(domain));
        self.act(&path, &[], CALL_TIMEOUT).await
    }

    /// `DELETE /apps/{id}/custom-domains/{domain}`
    pub async fn delete_custom_domain(&self, id: ApplicationId, domain: &str) -> Result<(), ClientError> {
        let path = format!("/apps/{id}/custom-domains/{}", segment(domain));
        self.delete(&path, &[]).await
    }
}
