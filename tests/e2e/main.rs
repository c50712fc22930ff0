//! End-to-end tests, a module for each promise of the platform.

mod bad_input;
mod daemons;
mod first_run;
mod identity;
mod main_path;
mod orchestration;
mod recovery;
mod single;
