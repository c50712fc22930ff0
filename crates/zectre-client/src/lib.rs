//! A typed client of Zectre's public API: one method an endpoint, one error type, a deadline on everything.
//!
//! Only reads are tried again when the API doesn't answer; a call that changes something is sent once, and a
//! creating one carries an `Idempotency-Key`, so that a person may repeat it without a second effect.
//!
//! ```no_run
//! # async fn example() -> Result<(), zectre_client::ClientError> {
//! let client = zectre_client::Client::new("http://localhost:47080", zectre_client::Credential::None)?;
//! println!("{}", client.cluster_status().await?.version);
//! # Ok(()) }
//! ```

mod api;
mod catalog;
mod credential;
mod error;
mod sse;
mod stream;
mod tls;
mod transport;

pub use api::{
    apps::AppFilter,
    artifacts::Upload,
    deployments::LogQuery,
    paging::{Paging, collect},
    tasks::TaskFilter,
};
pub use catalog::{CatalogTokens, CodeGrant};
pub use credential::Credential;
pub use error::ClientError;
/// What is sent: an artifact, for one.
pub use reqwest_tls::Body;
pub use sse::SseEvent;
pub use stream::{EventStream, LogStream, TaskLogStream};
pub use transport::Client;
