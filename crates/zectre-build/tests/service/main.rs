//! The build worker at work: real PostgreSQL, the real compiler, the real sandbox.

mod building;
mod git;
mod harness;
mod lifecycle;
