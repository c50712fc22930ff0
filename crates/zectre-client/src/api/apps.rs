//! Applications, environments and variables.

use crate::{Client, ClientError, Paging};
use http::Method;
use zectre_common::{
    id::ApplicationId,
    wire::{
        app::{
            App, CreateAppRequest, CreateEnvironmentRequest, Environment, SetVariableRequest,
            UpdateAppRequest, Variable, VariableChange,
        },
        page::Page,
    },
};

/// Which applications to list.
#[derive(Debug, Clone, Default)]
pub struct AppFilter {
    /// Only those of this namespace.
    pub namespace: Option<String>,
}

impl Client {
    /// `POST /apps`
    pub async fn create_app(&self, request: &CreateAppRequest) -> Result<App, ClientError> {
        self.call(Method::POST, "/apps", request).await
    }

    /// `GET /apps`
    pub async fn apps(&self, filter: &AppFilter, paging: Paging) -> Result<Page<App>, ClientError> {
        let mut query = paging.query();
        query.extend(filter.namespace.clone().map(|namespace| ("namespace", namespace)));
        query.push(("sort_by", "name".into()));
        query.push(("sort_order", "asc".into()));
        self.get("/apps", &query).await
    }

    /// `GET /apps/{id}`
    pub async fn app(&self, id: ApplicationId) -> Result<App, ClientError> {
        self.get(&format!("/apps/{id}"), &[]).await
    }

    /// `GET /apps/{namespace}/{name}`
    pub async fn app_by_name(&self, namespace: &str, name: &str) -> Result<App, ClientError> {
        self.get(&format!("/apps/{}/{}", segment(namespace), segment(name)), &[])
            .await
    }

    /// `GET /apps/by-subdomain/{subdomain}`
    pub async fn app_by_subdomain(&self, subdomain: &str) -> Result<App, ClientError> {
        self.get(&format!("/apps/by-subdomain/{}", segment(subdomain)), &[])
            .await
    }

    /// `PUT /apps/{id}`
    pub async fn update_app(
        &self,
        id: ApplicationId,
        request: &UpdateAppRequest,
    ) -> Result<App, ClientError> {
        self.call(Method::PUT, &format!("/apps/{id}"), request).await
    }

    /// `DELETE /apps/{id}`
    pub async fn delete_app(&self, id: ApplicationId) -> Result<(), ClientError> {
        self.delete(&format!("/apps/{id}"), &[]).await
    }

    /// `GET /apps/{id}/environments`: all of them, for there are no more than fit a page.
    pub async fn environments(&self, id: ApplicationId) -> Result<Page<Environment>, ClientError> {
        self.get(&format!("/apps/{id}/environments"), &Paging::default().query())
            .await
    }

    /// `POST /apps/{id}/environments`
    pub async fn create_environment(
        &self,
        id: ApplicationId,
        slug: &str,
    ) -> Result<Environment, ClientError> {
        let request = CreateEnvironmentRequest { slug: slug.into() };
        self.call(Method::POST, &format!("/apps/{id}/environments"), &request)
            .await
    }

    /// `DELETE /apps/{id}/environments/{slug}`
    pub async fn delete_environment(&self, id: ApplicationId, slug: &str) -> Result<(), ClientError> {
        self.delete(&format!("/apps/{id}/environments/{}", segment(slug)), &[])
            .await
    }

    /// `GET /apps/{id}/env`
    pub async fn variables(&self, id: ApplicationId, paging: Paging) -> Result<Page<Variable>, ClientError> {
        self.get(&format!("/apps/{id}/env"), &paging.query()).await
    }

    /// `PUT /apps/{id}/env/{KEY}`
    pub async fn set_variable(
        &self,
        id: ApplicationId,
        key: &str,
        request: &SetVariableRequest,
    ) -> Result<Variable, ClientError> {
        self.call(Method::PUT, &format!("/apps/{id}/env/{}", segment(key)), request)
            .await
    }

    /// `PATCH /apps/{id}/env`: many at once, all or none.
    pub async fn change_variables(
        &self,
        id: ApplicationId,
        changes: &[VariableChange],
    ) -> Result<(), ClientError> {
        let _: serde_json::Value = self
            .call(Method::PATCH, &format!("/apps/{id}/env"), changes)
            .await?;
        Ok(())
    }

    /// `DELETE /apps/{id}/env/{KEY}`: in one environment, or where it holds for every environment.
    pub async fn delete_variable(
        &self,
        id: ApplicationId,
        key: &str,
        environment: Option<&str>,
    ) -> Result<(), ClientError> {
        let query: Vec<_> = environment
            .map(|slug| ("environment", slug.to_owned()))
            .into_iter()
            .collect();
        self.delete(&format!("/apps/{id}/env/{}", segment(key)), &query)
            .await
    }
}

/// One segment of a path, percent-encoded: what a person typed can't lead to another endpoint.
pub(crate) fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'.' if text.bytes().all(|byte| byte == b'.') => encoded.push_str("%2E"),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            other => {
                encoded.push('%');
                encoded.push_str(&hex(other));
            }
        }
    }
    encoded
}

fn hex(byte: u8) -> String {
    format!("{byte:02X}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_segment_stays_one_segment() {
        assert_eq!(super::segment("a/b?c#d é"), "a%2Fb%3Fc%23d%20%C3%A9");
        assert_eq!(super::segment(".."), "%2E%2E");
        assert_eq!(super::segment("v1.2"), "v1.2");
    }
}
