//! The catalog as browsers, command lines and clusters see it: a real service over a real PostgreSQL, with an OAuth server in
//! a process of its own as GitHub.

mod attacks;
mod directory;
mod events;
mod harness;
mod keys;
mod logins;
mod rights;
