//! What every part of Zectre shares; it knows no service.
//!
//! Read in this order: [`id`] and [`state`] name things, [`spec`] says what a deployment wants,
//! [`wire`] is what services say to each other and to people, [`config`] how they are set up, and
//! [`db`] where all of it is kept.

pub mod cidr;
pub mod config;
pub mod db;
pub mod git;
pub mod histogram;
pub mod id;
pub mod manifest;
pub mod plain;
pub mod quantity;
pub mod routing;
pub mod spec;
pub mod state;
pub mod time;
pub mod wire;
