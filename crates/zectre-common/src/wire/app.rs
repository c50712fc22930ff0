//! Applications, environments and variables.

use crate::{
    id::{ApplicationId, DeploymentId, EnvironmentId},
    spec::{DeploymentRequest, Labels},
    time::Time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /apps`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAppRequest {
    /// Lower case letters, digits and `-`.
    pub name: String,
    /// Default `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// For automation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// What its deployments inherit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_deployment_spec: Option<DeploymentRequest>,
}

/// `PUT /apps/{id}`: fields left out stay as they are.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateAppRequest {
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// For automation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// What its deployments inherit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_deployment_spec: Option<DeploymentRequest>,
}

/// An application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct App {
    /// Its id.
    pub id: ApplicationId,
    /// Its name, unique in the namespace.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its label under the platform domain.
    pub subdomain: String,
    /// A sentence for people.
    pub description: String,
    /// For automation.
    pub labels: Labels,
    /// What its deployments inherit.
    pub default_deployment_spec: DeploymentRequest,
    /// Where it answers.
    pub url: String,
    /// When it was made.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
}

/// `POST /apps/{id}/environments`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateEnvironmentRequest {
    /// Lower case letters, digits and `-`.
    pub slug: String,
}

/// An environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Environment {
    /// Its id.
    pub id: EnvironmentId,
    /// Its slug.
    pub slug: String,
    /// The deployment that serves.
    pub current_deployment_id: Option<DeploymentId>,
    /// The deployment being rolled out.
    pub target_deployment_id: Option<DeploymentId>,
    /// When it was made.
    pub created_at: Time,
}

/// `PUT /apps/{id}/env/{KEY}`
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetVariableRequest {
    /// The value.
    pub value: String,
    /// Slug; default every environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// A secret's value is never shown again.
    #[serde(default)]
    pub secret: bool,
}

/// One change of `PATCH /apps/{id}/env`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VariableChange {
    /// Its name.
    pub key: String,
    /// The new value; none removes it.
    pub value: Option<String>,
    /// Slug; default every environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// A secret's value is never shown again.
    #[serde(default)]
    pub secret: bool,
}

/// A variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Variable {
    /// Its name.
    pub key: String,
    /// Its value; none for a secret.
    pub value: Option<String>,
    /// Slug; none means every environment.
    pub environment: Option<String>,
    /// Whether the value is hidden.
    pub secret: bool,
    /// When it was last set.
    pub updated_at: Time,
}
