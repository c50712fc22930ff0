//! Typed ids: an id of one kind can't be passed for another.
//!
//! All are UUIDv7, so sorting by id sorts by creation time.

use serde::{Deserialize, Deserializer, Serialize, de};
use std::{fmt, str::FromStr};
use utoipa::ToSchema;
use uuid::Uuid;

/// The text was not a UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not the id of {kind}: an id is a UUID such as 0198f2c4-7c3e-7a51-9d0e-3f6f2f4f8a11")]
pub struct IdParseError {
    kind: &'static str,
    given: String,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema, sqlx::Type)]
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

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "the id of {}", $kind)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                from.deserialize_str(Text)
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
    OrganizationId = "an organization";
    /// A namespace: the owner of applications.
    NamespaceId = "a namespace";
    /// A person or a robot that signs in.
    UserId = "a user";
    /// An invitation (never its token).
    InvitationId = "an invitation";
    /// An API key (never the key itself).
    ApiKeyId = "an API key";
    /// An application.
    ApplicationId = "an application";
    /// An environment of an application.
    EnvironmentId = "an environment";
    /// An artifact in the registry.
    ArtifactId = "an artifact";
    /// A build.
    BuildId = "a build";
    /// A deployment.
    DeploymentId = "a deployment";
    /// A task: one replica of a deployment.
    TaskId = "a task";
    /// A node: a machine that runs the agent.
    NodeId = "a node";
    /// A proxy instance, new at each start.
    ProxyId = "a proxy";
    /// A route.
    RouteId = "a route";
    /// The claim of an application on a domain.
    CustomDomainId = "a custom domain";
    /// An event of the activity feed.
    EventId = "an event";
    /// A webhook: a program outside that is called when something happens.
    WebhookId = "a webhook";
    /// A cluster that a catalog knows.
    ClusterId = "a cluster";
    /// One event for one webhook.
    DeliveryId = "a delivery";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_creation_and_round_trip() {
        let (a, b) = (TaskId::new(), TaskId::new());
        assert!(a < b);
        assert_eq!(a.to_string().parse::<TaskId>(), Ok(a));
        let json = serde_json::to_string(&a).expect("text");
        assert_eq!(serde_json::from_str::<TaskId>(&json).expect("text"), a);
        let error = serde_json::from_str::<ApplicationId>("\"x\"").expect_err("not a uuid");
        assert!(error.to_string().contains("the id of an application"), "{error}");
    }

    #[test]
    fn a_bad_id_names_its_kind() {
        let error = "zz".parse::<DeploymentId>().expect_err("not a uuid");
        assert!(
            error.to_string().contains("`zz` is not the id of a deployment"),
            "{error}"
        );
    }
}
