//! A write: one transaction with what is wanted, the operation for the scheduler, and the event.
//!
//! Rows are locked in one order, whoever locks them and for what: the account, the application, the organization, the routing epoch,
//! then environments and deployments, then the rest. In two orders two changes would wait for each other, until the server ends one of
//! them after a second. (The scheduler's commits begin with the epoch.)

use crate::{error::Error, identity::Actor};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use zectre_common::{
    id::{ApplicationId, DeploymentId, EventId, NodeId, OrganizationId, TaskId},
    state::OperationKind,
};

/// A write under way; dropped without [`Change::commit`] it never happened.
pub(crate) struct Change<'a> {
    transaction: Transaction<'static, Postgres>,
    actor: &'a Actor,
}

/// What an event is about.
#[derive(Debug, Default, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "they are named as the columns are")]
pub(crate) struct About {
    pub(crate) application_id: Option<ApplicationId>,
    pub(crate) deployment_id: Option<DeploymentId>,
    pub(crate) task_id: Option<TaskId>,
    pub(crate) node_id: Option<NodeId>,
    pub(crate) organization_id: Option<OrganizationId>,
}

impl About {
    /// An application.
    pub(crate) fn app(id: ApplicationId) -> Self {
        Self {
            application_id: Some(id),
            ..Self::default()
        }
    }

    /// A deployment of it.
    pub(crate) fn deployment(app: ApplicationId, id: DeploymentId) -> Self {
        Self {
            application_id: Some(app),
            deployment_id: Some(id),
            ..Self::default()
        }
    }

    /// An organization itself.
    pub(crate) fn organization(id: OrganizationId) -> Self {
        Self {
            organization_id: Some(id),
            ..Self::default()
        }
    }

    /// A thing of an organization's, maybe about one of its applications alone.
    pub(crate) fn thing_of(organization: OrganizationId, application: Option<ApplicationId>) -> Self {
        Self {
            application_id: application,
            ..Self::organization(organization)
        }
    }

    /// A node.
    pub(crate) fn node(id: NodeId) -> Self {
        Self {
            node_id: Some(id),
            ..Self::default()
        }
    }
}

impl<'a> Change<'a> {
    /// Begins one on behalf of `actor`.
    pub(crate) async fn begin(pool: &PgPool, actor: &'a Actor) -> Result<Self, Error> {
        Ok(Self {
            transaction: pool.begin().await?,
            actor,
        })
    }

    /// One that goes on in a transaction in which the actor has become known.
    pub(crate) fn within(transaction: Transaction<'static, Postgres>, actor: &'a Actor) -> Self {
        Self { transaction, actor }
    }

    /// For the statements of the resource.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Asks the scheduler for something.
    pub(crate) async fn operation(&mut self, kind: OperationKind, about: About) -> Result<(), Error> {
        sqlx::query!(
            "INSERT INTO operations (kind, deployment_id, task_id, node_id, actor, request_id)
             VALUES ($1, $2, $3, $4, $5, $6)",
            kind.as_str(),
            about.deployment_id as _,
            about.task_id as _,
            about.node_id as _,
            self.actor.name,
            self.actor.request_id.as_deref()
        )
        .execute(&mut *self.transaction)
        .await?;
        Ok(())
    }

    /// Writes the activity feed.
    pub(crate) async fn event(&mut self, action: &str, about: About, message: &str) -> Result<(), Error> {
        self.event_by(self.actor, action, about, message).await
    }

    /// The same for the feed of people who must not learn who did it.
    pub(crate) async fn event_by_platform(
        &mut self,
        action: &str,
        about: About,
        message: &str,
    ) -> Result<(), Error> {
        self.event_by(&Actor::platform(), action, about, message).await
    }

    async fn event_by(
        &mut self,
        actor: &Actor,
        action: &str,
        about: About,
        message: &str,
    ) -> Result<(), Error> {
        sqlx::query!(
            "INSERT INTO events (id, actor, action, application_id, deployment_id, task_id, node_id, message,
                                 source_address, request_id, organization_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            EventId::new() as _,
            actor.name,
            action,
            about.application_id as _,
            about.deployment_id as _,
            about.task_id as _,
            about.node_id as _,
            message,
            actor.address.map(|address| address.to_string()),
            actor.request_id.as_deref(),
            about.organization_id as _
        )
        .execute(&mut *self.transaction)
        .await?;
        Ok(())
    }

    /// Hosts changed: proxies look again.
    pub(crate) async fn raise_routing_epoch(&mut self) -> Result<(), Error> {
        sqlx::query!("SELECT raise_routing_epoch()")
            .fetch_one(&mut *self.transaction)
            .await?;
        Ok(())
    }

    /// Makes it so, with the answer kept for a repeat of the request where that has an `Idempotency-Key`.
    pub(crate) async fn commit_answering(mut self, location: &str, body: &str) -> Result<(), Error> {
        if let Some(claim) = &self.actor.claim {
            claim.keep(&mut self.transaction, location, body).await?;
        }
        self.commit().await
    }

    /// Makes it so.
    pub(crate) async fn commit(self) -> Result<(), Error> {
        Ok(self.transaction.commit().await?)
    }
}
