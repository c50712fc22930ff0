//! Containers on an engine that speaks Docker's API 1.41 (Docker, Podman) over its socket.
//!
//! An [`Engine`] belongs to one agent: every container carries the task's id and its owner as labels, so that
//! an agent finds its own again after a restart and never touches another's.

mod container;
mod engine;
mod error;
mod image;
mod image_name;
mod log;

pub use container::{ContainerEnd, ContainerSpec, ContainerState, ContainerVolume, Found, Started, Usage};
pub use engine::Engine;
pub use error::Error;
pub use image::{Image, Login, Progress};
pub use image_name::{SPELLINGS_MAX, canonical, registry_of, spellings};
pub use log::{OutputChunk, OutputStream};
