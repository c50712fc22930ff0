//! Calls of forges (GitHub's webhooks): what they mean and which come late is pure ([`github`], [`order`]), what is done about it
//! stands in [`act`].

pub(crate) mod act;
pub(crate) mod github;
pub(crate) mod order;
