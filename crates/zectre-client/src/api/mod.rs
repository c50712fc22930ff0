//! The endpoints, one file a resource.

pub(crate) mod apps;
pub(crate) mod artifacts;
mod auth;
mod builds;
mod catalog;
mod cluster;
pub(crate) mod deployments;
mod domains;
mod nodes;
mod orgs;
pub(crate) mod paging;
mod sign_in;
pub(crate) mod tasks;
mod users;
mod webhooks;
