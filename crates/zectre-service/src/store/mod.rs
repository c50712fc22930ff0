//! SQL that is the same for every database with sealed values.

pub(crate) mod sealed;
