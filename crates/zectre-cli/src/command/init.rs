//! `zectre init`: a manifest and a first program; what is there stays as it is.

use crate::{
    args::InitArgs,
    error::CliError,
    output::{Output, Shown},
    project,
};
use std::{
    fs,
    io::{ErrorKind, Write},
    path::Path,
};
use zectre_common::{
    manifest::{ENTRY_DEFAULT, FILE_NAME},
    spec::valid_slug,
};

const PROGRAM: &str = include_str!("../../templates/main.tish");
const MANIFEST: &str = include_str!("../../templates/zectre.yaml");

pub(crate) fn run(args: &InitArgs, output: Output) -> Result<Shown, CliError> {
    let name = match &args.name {
        Some(name) if valid_slug(name) => name.clone(),
        Some(name) => {
            return Err(CliError::Usage(project::name_rule(name)));
        }
        None => name_of_directory()?,
    };
    let manifest = MANIFEST.replace("NAME", &name);
    let (mut written, mut kept) = (Vec::new(), Vec::new());
    for (path, text) in [(FILE_NAME, manifest.as_str()), (ENTRY_DEFAULT, PROGRAM)] {
        if write_new(Path::new(path), text)? {
            output.say(format!("Wrote {path}"));
            written.push(path);
        } else {
            output.say(format!("{path} is there already; it stays as it is"));
            kept.push(path);
        }
    }
    let done = serde_json::json!({"name": name, "written": written, "kept": kept});
    Ok(output.done(&done, "Next: `zectre deploy`"))
}

/// The directory's name, made fit for a host label.
fn name_of_directory() -> Result<String, CliError> {
    let directory = std::env::current_dir()?;
    let name = directory
        .file_name()
        .map(|name| name.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let trimmed: String = plain
        .trim_start_matches(|c: char| !c.is_ascii_alphabetic())
        .chars()
        .take(40)
        .collect();
    let name = trimmed.trim_end_matches('-');
    Ok(if valid_slug(name) {
        name.to_owned()
    } else {
        "app".to_owned()
    })
}

/// False when the file is there already.
fn write_new(path: &Path, text: &str) -> Result<bool, CliError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(CliError::write(parent))?;
    }
    match fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => file
            .write_all(text.as_bytes())
            .map_err(CliError::write(path))
            .map(|()| true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(CliError::write(path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zectre_common::manifest::Manifest;

    #[test]
    fn the_template_is_a_valid_manifest_with_a_patient_health_check() {
        let manifest = Manifest::parse("zectre.yaml", &MANIFEST.replace("NAME", "shop")).expect("valid");
        assert_eq!((manifest.name(), manifest.entry()), (Some("shop"), ENTRY_DEFAULT));
        assert!(PROGRAM.contains("/health"));
    }
}
