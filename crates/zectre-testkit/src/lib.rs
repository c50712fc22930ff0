//! What tests share: a private PostgreSQL with a database of its own for each test, waiting for conditions
//! instead of sleeping, and ports that nobody else uses.

mod database;
mod dns;
mod docker;
mod forge;
mod github;
mod images;
mod metrics_token;
mod podman;
mod ports;
mod postgres;
mod shut;
mod tls;
mod wait;

pub use database::TestDatabase;
pub use dns::DnsServer;
pub use docker::DockerEngine;
pub use forge::{FORGE_TOKEN, Forge};
pub use github::{GITHUB_CLIENT_ID, GITHUB_CLIENT_SECRET, GithubServer};
pub use images::{ImageRegistry, REGISTRY_PASSWORD, REGISTRY_USER};
pub use metrics_token::{METRICS_TOKEN, metrics_token_file};
pub use podman::PodmanEngine;
pub use ports::{free_port, free_port_range};
pub use postgres::{postgres_bin_dir, stop_shared_server};
pub use shut::admit;
pub use tls::TestCertificate;
pub use wait::wait_until;
