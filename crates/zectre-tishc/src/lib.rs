//! The Tish compiler as one pinned, sandboxable helper process: a project in, one static binary out.
//!
//! The one thing to know: the slow part happens once. [`warm()`] compiles the Tish runtime and its
//! dependencies from a template crate with a committed lock file, and writes down where the results
//! lie. [`compile()`] then checks the project, translates it to Rust and calls `rustc` directly
//! against those results: no cargo, no network, no lock, nothing written but the output. So any
//! number of compiles share one cache, which may be read-only, and none can see another's program.
//!
//! Exit codes: 0 done, 1 the program is at fault, 2 the command line is, 70 this machine is.

mod cache;
mod cli;
mod compile;
mod diagnostic;
mod error;
mod import;
mod names;
mod project;
mod runtime;
mod rustc;
mod scope;
mod syntax;
mod template;
mod toolchain;
mod translate;
mod warm;

pub use cli::run;
pub use compile::{Built, Phases, compile};
pub use diagnostic::{Diagnostic, Failure, Stage};
pub use error::Error;
pub use template::TISH_VERSION;
pub use warm::{Warmed, warm};
