//! Where a user's own files are.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The directory that the variable names, else the one of this name in the user's home: `$HOME`, or where the system says that it is
/// (a unit of systemd without `User=` has no `HOME`).
pub(crate) fn directory(variable: &str, below: impl AsRef<Path>) -> Option<PathBuf> {
    let named = env::var_os(variable).map(PathBuf::from);
    let usual = || Some(env::home_dir()?.join(below));
    let is_absolute = |path: &PathBuf| path.is_absolute();
    named.filter(is_absolute).or_else(|| usual().filter(is_absolute))
}
