//! Why a chore could not be done, in a sentence that says what to do.

use std::fmt;

/// The sentence.
#[derive(Debug)]
pub(crate) struct Fail(String);

impl Fail {
    /// With this sentence.
    pub(crate) fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fail {}
