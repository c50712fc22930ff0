//! Calls of forges (GitHub's webhooks): what they mean is pure ([`github`]), what is done about it stands in [`act`].

pub(crate) mod act;
pub(crate) mod github;
