//! A mistake in a manifest, with its place.

use std::{fmt, fs, io::Read, path::Path};

/// A mistake in a manifest. Shown as `zectre.yaml:7:3: unknown key …`, the form that editors make a link of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// The file, relative to the project.
    pub file: String,
    /// From 1; 0 when the mistake has no place in the file.
    pub line: u32,
    /// From 1; 0 when the mistake has no place in the file.
    pub column: u32,
    /// What is wrong, and what would be right where that isn't `nearest`.
    pub message: String,
    /// The known key or value closest to what was written.
    pub nearest: Option<String>,
}

impl ManifestError {
    /// A mistake about the file as a whole.
    pub(super) fn whole(file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            message: message.into(),
            nearest: None,
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column.max(1))?;
        }
        write!(f, " {}", self.message)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean `{nearest}`?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ManifestError {}

/// The candidate closest to `given`, when it is close enough to be a slip of the hand.
pub(crate) fn nearest<'c>(given: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::normalized_damerau_levenshtein(given, candidate),
                candidate,
            )
        })
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.to_owned())
}

/// The text of `directory/name`, or none when there is no such file. A link is refused: a project's sources
/// may come from a stranger, and a link could name any file of this machine.
pub(super) fn read_file(directory: &Path, name: &str) -> Result<Option<String>, ManifestError> {
    let path = directory.join(name);
    let refuse = |message: String| Err(ManifestError::whole(name, message));
    let metadata = match fs::symlink_metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return refuse(format!("can't be read: {error}")),
    };
    if !metadata.is_file() {
        return refuse("must be a plain file, not a link or a directory".into());
    }
    let mut bytes = Vec::new();
    let read =
        fs::File::open(&path).and_then(|file| file.take(super::FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => refuse(format!("can't be read: {error}")),
        Ok(length) if length as u64 > super::FILE_BYTES_MAX => refuse(format!(
            "is larger than {} KiB; a manifest is a few lines",
            super::FILE_BYTES_MAX / 1024
        )),
        Ok(_) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => refuse("is not UTF-8 text; save it as UTF-8".into()),
        },
    }
}
