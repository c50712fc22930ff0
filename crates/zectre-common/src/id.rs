//! Typed ids: an id of one kind can't be passed for another.
//!
//! All are UUIDv7, so sorting by id sorts by creation time.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use utoipa::ToSchema;
use uuid::Uuid;

/// The text was not a UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a {kind} id: an id is a UUID such as 0198f2c4-7c3e-7a51-9d0e-3f6f2f4f8a11")]
pub struct IdParseError {
    kind: &'static str,
    given: String,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        #[schema(value_type = Uuid)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh id, later than every id made before it on this machine.
            #[expect(clippy::new_without_default, reason = "every call gives another value")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// Wraps an id that came from the database or the wire.
            pub const fn from_uuid(id: Uuid) -> Self {
                Self(id)
            }

            /// The bare UUID.
            pub const fn get(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdParseError;
            fn from_str(text: &str) -> Result<Self, IdParseError> {
                Uuid::try_parse(text).map(Self).map_err(|_| IdParseError {
                    kind: $kind,
                    given: text.chars().take(64).collect(),
                })
            }
        }
    )*};
}

ids! {
    /// An organization: the owner of namespaces.
    OrganizationId = "organization";
    /// A namespace: the owner of applications.
    NamespaceId = "namespace";
    /// A person or a robot that signs in.
    UserId = "user";
    /// An API key (never the key itself).
    ApiKeyId = "API key";
    /// An application.
    ApplicationId = "application";
    /// An environment of an application.
    EnvironmentId = "environment";
    /// An artifact in the registry.
    ArtifactId = "artifact";
    /// A build.
    BuildId = "build";
    /// A deployment.
    DeploymentId = "deployment";
    /// A task: one replica of a deployment.
    TaskId = "task";
    /// A node: a machine that runs the agent.
    NodeId = "node";
    /// A proxy instance, new at each start.
    ProxyId = "proxy";
    /// A route.
    RouteId = "route";
    /// An event of the activity feed.
    EventId = "event";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_creation_and_round_trip() {
        let (a, b) = (TaskId::new(), TaskId::new());
        assert!(a < b);
        assert_eq!(a.to_string().parse::<TaskId>(), Ok(a));
    }

    #[test]
    fn a_bad_id_names_its_kind() {
        let error = "zz".parse::<DeploymentId>().expect_err("not a uuid");
        assert!(
            error.to_string().contains("`zz` is not a deployment id"),
            "{error}"
        );
    }
}
