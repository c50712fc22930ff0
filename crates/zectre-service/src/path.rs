//! What a path names, for a guard that looks at it before any handler does.

use axum::extract::RawPathParams;
use std::{fmt::Display, str::FromStr};

/// The text that the path has for `name`.
///
/// # Errors
/// A sentence that says what the path lacks.
pub fn text<'p>(params: &'p RawPathParams, name: &str) -> Result<&'p str, String> {
    let found = params
        .iter()
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value);
    found
        .filter(|value| !value.contains('\0'))
        .ok_or_else(|| format!("the path lacks a usable `{name}`"))
}

/// The id, or whatever else is written as a text, that the path has for `name`.
///
/// # Errors
/// A sentence that says what the path lacks, or what is wrong with it.
pub fn parsed<T: FromStr<Err: Display>>(params: &RawPathParams, name: &str) -> Result<T, String> {
    text(params, name)?
        .parse()
        .map_err(|error: T::Err| error.to_string())
}
