//! The build worker at work: real PostgreSQL, the real compiler, the real sandbox.

mod building;
mod harness;
mod lifecycle;
