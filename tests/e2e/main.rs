//! End-to-end tests, a module for each promise of the platform.

mod bad_input;
mod canary;
mod catalog;
mod chaos;
mod churn;
mod commands;
mod daemons;
mod domains;
mod first_run;
mod identity;
mod interrupt;
mod json;
mod listing;
mod main_path;
mod orchestration;
mod push;
mod recovery;
mod rotation;
mod sign_in;
mod single;
mod stampede;
mod strategies;
mod tcp;
mod team;
