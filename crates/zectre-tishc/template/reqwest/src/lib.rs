//! `reqwest` 0.12 under the name of 0.13: the part of the interface that the Tish runtime uses is
//! the same, and this line takes its cryptography from `ring`.

pub use upstream::*;
