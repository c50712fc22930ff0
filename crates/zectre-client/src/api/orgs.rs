//! Organizations, their members, invitations and namespaces.

use super::{apps::segment, paging::Paging};
use crate::{Client, ClientError};
use http::Method;
use zectre_common::{
    id::{InvitationId, UserId},
    state::Role,
    wire::{
        auth::{CreateNamespaceRequest, CreateOrganizationRequest, Membership, Namespace, Organization},
        member::{
            AcceptInvitationRequest, CreateInvitationRequest, CreatedInvitation, Invitation, Member,
            SetMemberRequest,
        },
        page::Page,
    },
};

impl Client {
    /// `GET /orgs`
    pub async fn orgs(&self, paging: Paging) -> Result<Page<Organization>, ClientError> {
        self.get("/orgs", &paging.query()).await
    }

    /// `POST /orgs`
    pub async fn create_org(&self, request: &CreateOrganizationRequest) -> Result<Organization, ClientError> {
        self.call(Method::POST, "/orgs", request).await
    }

    /// `GET /orgs/{slug}/members`
    pub async fn members(&self, slug: &str, paging: Paging) -> Result<Page<Member>, ClientError> {
        let path = format!("/orgs/{}/members", segment(slug));
        self.get(&path, &paging.query()).await
    }

    /// `PUT /orgs/{slug}/members/{user_id}`
    pub async fn set_member(&self, slug: &str, user: UserId, role: Role) -> Result<Member, ClientError> {
        let path = format!("/orgs/{}/members/{user}", segment(slug));
        self.call(Method::PUT, &path, &SetMemberRequest { role }).await
    }

    /// `DELETE /orgs/{slug}/members/{user_id}`
    pub async fn remove_member(&self, slug: &str, user: UserId) -> Result<(), ClientError> {
        let path = format!("/orgs/{}/members/{user}", segment(slug));
        self.delete(&path, &[]).await
    }

    /// `DELETE /orgs/{slug}/membership`: one's own.
    pub async fn leave_org(&self, slug: &str) -> Result<(), ClientError> {
        let path = format!("/orgs/{}/membership", segment(slug));
        self.delete(&path, &[]).await
    }

    /// `GET /orgs/{slug}/invitations`
    pub async fn invitations(&self, slug: &str, paging: Paging) -> Result<Page<Invitation>, ClientError> {
        let path = format!("/orgs/{}/invitations", segment(slug));
        self.get(&path, &paging.query()).await
    }

    /// `POST /orgs/{slug}/invitations`: the answer shows the token, once.
    pub async fn create_invitation(
        &self,
        slug: &str,
        request: &CreateInvitationRequest,
    ) -> Result<CreatedInvitation, ClientError> {
        let path = format!("/orgs/{}/invitations", segment(slug));
        self.call(Method::POST, &path, request).await
    }

    /// `DELETE /orgs/{slug}/invitations/{id}`
    pub async fn revoke_invitation(&self, slug: &str, id: InvitationId) -> Result<(), ClientError> {
        let path = format!("/orgs/{}/invitations/{id}", segment(slug));
        self.delete(&path, &[]).await
    }

    /// `POST /invitations/accept`
    pub async fn accept_invitation(
        &self,
        request: &AcceptInvitationRequest,
    ) -> Result<Membership, ClientError> {
        self.call(Method::POST, "/invitations/accept", request).await
    }

    /// `GET /namespaces`
    pub async fn namespaces(&self, paging: Paging) -> Result<Page<Namespace>, ClientError> {
        self.get("/namespaces", &paging.query()).await
    }

    /// `POST /namespaces`
    pub async fn create_namespace(&self, request: &CreateNamespaceRequest) -> Result<Namespace, ClientError> {
        self.call(Method::POST, "/namespaces", request).await
    }
}
