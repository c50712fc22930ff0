//! A catalog's own API: the same conventions at another address.

use super::{apps::segment, paging::Paging};
use crate::{Client, ClientError};
use http::Method;
use zectre_common::{
    id::{ClusterId, InvitationId, UserId},
    state::Role,
    wire::{
        catalog::{
            AcceptInvitationRequest, Cluster, CreateClusterRequest, CreateInvitationRequest,
            CreateOrganizationRequest, CreatedInvitation, Event, Invitation, Me, Member, Organization,
            SetRoleRequest,
        },
        page::Page,
    },
};

impl Client {
    /// `GET /me`, of a catalog
    pub async fn catalog_me(&self) -> Result<Me, ClientError> {
        self.get("/me", &[]).await
    }

    /// `GET /me/events`, of a catalog, newest first
    pub async fn catalog_my_events(&self, paging: Paging) -> Result<Page<Event>, ClientError> {
        self.get("/me/events", &paging.query()).await
    }

    /// `GET /orgs/{slug}/events`, of a catalog, newest first
    pub async fn catalog_org_events(&self, slug: &str, paging: Paging) -> Result<Page<Event>, ClientError> {
        let path = format!("/orgs/{}/events", segment(slug));
        self.get(&path, &paging.query()).await
    }

    /// `GET /clusters`, of a catalog
    pub async fn catalog_clusters(&self, paging: Paging) -> Result<Page<Cluster>, ClientError> {
        self.get("/clusters", &paging.query()).await
    }

    /// `POST /clusters`, of a catalog
    pub async fn add_catalog_cluster(&self, request: &CreateClusterRequest) -> Result<Cluster, ClientError> {
        self.call(Method::POST, "/clusters", request).await
    }

    /// `DELETE /clusters/{id}`, of a catalog
    pub async fn remove_catalog_cluster(&self, id: ClusterId) -> Result<(), ClientError> {
        self.delete(&format!("/clusters/{id}"), &[]).await
    }

    /// `GET /orgs`, of a catalog
    pub async fn catalog_orgs(&self, paging: Paging) -> Result<Page<Organization>, ClientError> {
        self.get("/orgs", &paging.query()).await
    }

    /// `POST /orgs`, of a catalog
    pub async fn create_catalog_org(
        &self,
        request: &CreateOrganizationRequest,
    ) -> Result<Organization, ClientError> {
        self.call(Method::POST, "/orgs", request).await
    }

    /// `DELETE /orgs/{slug}`, of a catalog
    pub async fn delete_catalog_org(&self, slug: &str) -> Result<(), ClientError> {
        self.delete(&format!("/orgs/{}", segment(slug)), &[]).await
    }

    /// `GET /orgs/{slug}/members`, of a catalog
    pub async fn catalog_members(&self, slug: &str, paging: Paging) -> Result<Page<Member>, ClientError> {
        let path = format!("/orgs/{}/members", segment(slug));
        self.get(&path, &paging.query()).await
    }

    /// `PUT /orgs/{slug}/members/{user_id}`, of a catalog
    pub async fn set_catalog_role(&self, slug: &str, user: UserId, role: Role) -> Result<(), ClientError> {
        let path = format!("/orgs/{}/members/{user}", segment(slug));
        self.call(Method::PUT, &path, &SetRoleRequest { role }).await
    }

    /// `DELETE /orgs/{slug}/members/{user_id}`, of a catalog
    pub async fn remove_catalog_member(&self, slug: &str, user: UserId) -> Result<(), ClientError> {
        let path = format!("/orgs/{}/members/{user}", segment(slug));
        self.delete(&path, &[]).await
    }

    /// `GET /orgs/{slug}/invitations`, of a catalog
    pub async fn catalog_invitations(
        &self,
        slug: &str,
        paging: Paging,
    ) -> Result<Page<Invitation>, ClientError> {
        let path = format!("/orgs/{}/invitations", segment(slug));
        self.get(&path, &paging.query()).await
    }

    /// `POST /orgs/{slug}/invitations`, of a catalog
    pub async fn create_catalog_invitation(
        &self,
        slug: &str,
        request: &CreateInvitationRequest,
    ) -> Result<CreatedInvitation, ClientError> {
        let path = format!("/orgs/{}/invitations", segment(slug));
        self.call(Method::POST, &path, request).await
    }

    /// `DELETE /orgs/{slug}/invitations/{id}`, of a catalog
    pub async fn revoke_catalog_invitation(&self, slug: &str, id: InvitationId) -> Result<(), ClientError> {
        let path = format!("/orgs/{}/invitations/{id}", segment(slug));
        self.delete(&path, &[]).await
    }

    /// `POST /invitations/accept`, of a catalog
    pub async fn accept_catalog_invitation(
        &self,
        request: &AcceptInvitationRequest,
    ) -> Result<Organization, ClientError> {
        self.call(Method::POST, "/invitations/accept", request).await
    }
}
