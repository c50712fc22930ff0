//! `tish.source` and `tish.features` of a `package.json`; everything else in it is others' business.

use super::{ManifestError, error::nearest};
use serde::Deserialize;

/// The file's name in the root of a project.
pub(super) const FILE_NAME: &str = "package.json";

/// The keys we read; the Tish tools know more.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Tish {
    /// Wins over `build.source`.
    pub(super) source: Option<String>,
    /// Wins over `build.features`.
    pub(super) features: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Package {
    #[serde(default)]
    tish: Tish,
}

/// Reads the `tish` part of a package.json.
pub(super) fn parse(text: &str) -> Result<Tish, ManifestError> {
    let package: Package = serde_json::from_str(text).map_err(|error| {
        let place = format!(" at line {} column {}", error.line(), error.column());
        ManifestError {
            file: FILE_NAME.into(),
            line: error.line() as u32,
            column: error.column() as u32,
            message: error.to_string().replace(&place, ""),
            nearest: None,
        }
    })?;
    let refuse = |key: &str, message: &str| {
        let line = text
            .lines()
            .position(|line| line.contains(&format!("\"{key}\"")))
            .map_or(0, |index| index + 1);
        Err(ManifestError {
            file: FILE_NAME.into(),
            line: line as u32,
            column: 1,
            message: format!("`tish.{key}` {message}"),
            nearest: None,
        })
    };
    if let Some(message) = package.tish.source.as_deref().and_then(super::source_mistake) {
        return refuse("source", message);
    }
    if let Some(message) = package.tish.features.as_deref().and_then(super::features_mistake) {
        return refuse("features", message);
    }
    // A near miss would silently compile something else.
    if package.tish.source.is_none()
        && let Some(key) = near_miss(text)
    {
        return refuse(&key, "is not a key; did you mean `tish.source`?");
    }
    Ok(package.tish)
}

/// A key of `tish` that looks like `source` but isn't.
fn near_miss(text: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let keys = value
        .get("tish")?
        .as_object()?
        .keys()
        .cloned()
        .collect::<Vec<_>>();
    keys.into_iter()
        .find(|key| key != "source" && key.len() > 4 && nearest("source", [key.as_str()]).is_some())
}
