//! A project as one gzip tar archive: the same files give the same bytes, whoever packs them and when.
//!
//! `.gitignore` and `.zectreignore` say what stays behind. Links are packed as what they lead to, when that is
//! a file inside the project; anything else would mean something different on the machine that builds. Files of
//! variables (`.env`) never come along: what they hold is often secret, and a build keeps its sources.

use flate2::{Compression, GzBuilder};
use ignore::WalkBuilder;
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The largest archive; the platform's own default (`[build].source_bytes_max`).
const ARCHIVE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The most bytes of files (`[build].unpacked_bytes_max`).
const FILES_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The most files (`[build].files_max`).
const FILES_MAX: usize = 10_000;
/// Never packed, whatever the ignore files say.
const NEVER: &[&str] = &[".git", ".zectre"];
/// Files of variables for this machine alone, as `zectre env pull` and most frameworks write them: `.env`,
/// `.env.local`, `.env.production.local`. Those with other endings (`.env.example`) are made to be shared.
const LOCAL_VARIABLES: &str = ".env";
const LOCAL_VARIABLES_END: &str = ".local";

/// The project can't be packed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    /// There is nothing.
    #[error("{0} has no files to deploy. Run `zectre init` there, or name another directory.")]
    Empty(PathBuf),
    /// Too much.
    #[error(
        "the project is larger than {limit} (its largest file is {largest}). Put what the build doesn't need into .zectreignore."
    )]
    TooLarge { limit: &'static str, largest: String },
    /// A link that would mean something else elsewhere.
    #[error("{path} is a link {why}. Copy what it leads to into the project, or put it into .zectreignore.")]
    Link { path: PathBuf, why: &'static str },
    /// A file that can't be packed.
    #[error("{path} can't be packed: {why}. Correct that, or put it into .zectreignore.")]
    File { path: PathBuf, why: String },
    /// A name that can't be sent.
    #[error("{0:?} has a name that is not UTF-8. Rename it, or put it into .zectreignore.")]
    Name(PathBuf),
}

/// A packed project.
pub(crate) struct Archive {
    pub(crate) bytes: Vec<u8>,
    pub(crate) files: usize,
    /// Files of variables that were left out although no ignore file names them, relative to the project.
    pub(crate) left_out: Vec<String>,
}

/// What a walk through a project finds.
#[derive(Default)]
struct Found {
    entries: Vec<Entry>,
    left_out: Vec<String>,
}

struct Entry {
    /// Relative to the project, with `/`.
    name: String,
    /// Where its bytes are (a link's target, resolved).
    path: PathBuf,
    size_bytes: u64,
    executable: bool,
}

/// Packs `directory`.
pub(crate) fn pack(directory: &Path) -> Result<Archive, PackError> {
    let root = fs::canonicalize(directory).map_err(failed(directory))?;
    let Found {
        mut entries,
        mut left_out,
    } = collect(&root)?;
    if entries.is_empty() {
        return Err(PackError::Empty(directory.into()));
    }
    // The order of a directory's entries depends on the file system.
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    left_out.sort();
    let largest = largest(&entries);
    let too_large = |limit| PackError::TooLarge {
        limit,
        largest: largest.clone(),
    };
    if entries.len() > FILES_MAX {
        return Err(too_large("10,000 files"));
    }
    if entries.iter().map(|entry| entry.size_bytes).sum::<u64>() > FILES_BYTES_MAX {
        return Err(too_large("256 MiB"));
    }
    // No time and no host in the header: they would make equal projects differ.
    let compressed = GzBuilder::new()
        .mtime(0)
        .write(Bounded(Vec::new()), Compression::default());
    let mut archive = tar::Builder::new(compressed);
    for entry in &entries {
        append(&mut archive, entry).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => too_large("64 MiB packed"),
            _ => failed(&entry.path)(error),
        })?;
    }
    let finished = archive.into_inner().and_then(flate2::write::GzEncoder::finish);
    let bytes = finished.map_err(|_| too_large("64 MiB packed"))?.0;
    Ok(Archive {
        bytes,
        files: entries.len(),
        left_out,
    })
}

fn holds_local_variables(name: &str) -> bool {
    name.strip_prefix(LOCAL_VARIABLES)
        .is_some_and(|rest| rest.is_empty() || (rest.starts_with('.') && rest.ends_with(LOCAL_VARIABLES_END)))
}

fn collect(root: &Path) -> Result<Found, PackError> {
    let walk = WalkBuilder::new(root)
        .hidden(false)
        .ignore(false)
        .git_global(false)
        .require_git(false)
        .follow_links(false)
        .add_custom_ignore_filename(".zectreignore")
        .filter_entry(|entry| entry.depth() == 0 || !NEVER.iter().any(|name| entry.file_name() == *name))
        .build();
    let mut all = Found::default();
    for found in walk {
        let found = found.map_err(|error| PackError::File {
            path: root.into(),
            why: error.to_string(),
        })?;
        let Some(kind) = found.file_type() else { continue };
        if kind.is_dir() {
            continue;
        }
        if all.entries.len() > FILES_MAX {
            break;
        }
        if found.file_name().to_str().is_some_and(holds_local_variables) {
            let path = found.path().strip_prefix(root).unwrap_or(found.path());
            all.left_out.push(path.display().to_string());
            continue;
        }
        all.entries.push(entry(root, found.path(), kind)?);
    }
    Ok(all)
}

fn entry(root: &Path, path: &Path, kind: fs::FileType) -> Result<Entry, PackError> {
    let relative = path.strip_prefix(root).expect("the walk stays below its root");
    let name = relative
        .to_str()
        .ok_or_else(|| PackError::Name(relative.into()))?
        .to_owned();
    let link = |why| PackError::Link {
        path: relative.into(),
        why,
    };
    let target = if kind.is_symlink() {
        let target = fs::canonicalize(path).map_err(|_| link("that leads nowhere"))?;
        if !target.starts_with(root) {
            return Err(link("that leads out of the project"));
        }
        target
    } else {
        path.to_owned()
    };
    let metadata = fs::metadata(&target).map_err(failed(relative))?;
    if metadata.is_dir() {
        return Err(link("to a directory"));
    }
    if !metadata.is_file() {
        return Err(PackError::File {
            path: relative.into(),
            why: "it is neither a file nor a directory".into(),
        });
    }
    let executable = metadata.permissions().mode() & 0o111 != 0;
    Ok(Entry {
        name,
        path: target,
        size_bytes: metadata.len(),
        executable,
    })
}

fn append<W: Write>(archive: &mut tar::Builder<W>, entry: &Entry) -> io::Result<()> {
    let bytes = fs::read(&entry.path)?;
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(if entry.executable { 0o755 } else { 0o644 });
    header.set_mtime(0);
    archive.append_data(&mut header, &entry.name, bytes.as_slice())
}

fn largest(entries: &[Entry]) -> String {
    let largest = entries.iter().max_by_key(|entry| entry.size_bytes);
    largest.map_or_else(String::new, |entry| {
        format!("{}, {}", entry.name, crate::table::bytes(entry.size_bytes))
    })
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> PackError {
    let path = path.to_owned();
    move |error| PackError::File {
        path,
        why: error.to_string(),
    }
}

/// Refuses to grow beyond what the platform takes.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > ARCHIVE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read;

    fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("below the directory")).expect("writable");
            fs::write(path, text).expect("writable");
        }
        directory
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(GzDecoder::new(bytes));
        let entries = archive.entries().expect("a tar archive");
        entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .path()
                    .expect("a path")
                    .display()
                    .to_string()
            })
            .collect()
    }

    #[test]
    fn ignored_files_stay_behind_and_hidden_ones_come_along() {
        let directory = project(&[
            ("zectre.yaml", "name: a"),
            ("src/main.tish", "serve()"),
            (".gitignore", "*.log\nout/\n"),
            (".zectreignore", "secret.txt\n"),
            ("debug.log", "x"),
            ("out/a", "x"),
            ("secret.txt", "x"),
            (".env.example", "x"),
            (".env", "x"),
            ("src/.env.production.local", "x"),
            (".git/config", "x"),
            (".zectre/localhost/project.json", "x"),
            ("src/.gitignore", "*.tmp\n"),
            ("src/a.tmp", "x"),
        ]);
        let archive = pack(directory.path()).expect("small");
        let expected = [
            ".env.example",
            ".gitignore",
            ".zectreignore",
            "src/.gitignore",
            "src/main.tish",
            "zectre.yaml",
        ];
        assert_eq!(names(&archive.bytes), expected);
        assert_eq!(archive.files, expected.len());
        assert_eq!(archive.left_out, [".env", "src/.env.production.local"]);
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let files = [("b/c.tish", "c"), ("a.tish", "a"), ("b.tish", "b")];
        let (one, two) = (project(&files), project(&files));
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3_600);
        fs::File::open(two.path().join("a.tish"))
            .expect("there")
            .set_modified(later)
            .expect("settable");
        assert_eq!(
            pack(one.path()).expect("small").bytes,
            pack(two.path()).expect("small").bytes
        );
    }

    #[test]
    fn a_link_is_packed_as_its_file_or_refused() {
        let directory = project(&[("shared/a.tish", "text")]);
        std::os::unix::fs::symlink("shared/a.tish", directory.path().join("b.tish")).expect("a link");
        let archive = pack(directory.path()).expect("the link stays inside");
        let mut unpacked = tar::Archive::new(GzDecoder::new(archive.bytes.as_slice()));
        let mut first = unpacked
            .entries()
            .expect("a tar archive")
            .next()
            .expect("an entry")
            .expect("readable");
        let mut text = String::new();
        first.read_to_string(&mut text).expect("text");
        assert_eq!(
            (first.header().entry_type(), text.as_str()),
            (tar::EntryType::Regular, "text")
        );

        for (target, why) in [
            ("/etc/hostname", "out of the project"),
            ("gone", "nowhere"),
            ("shared", "to a directory"),
        ] {
            let path = directory.path().join("bad");
            std::os::unix::fs::symlink(target, &path).expect("a link");
            let error = pack(directory.path()).err().expect(target).to_string();
            assert!(error.contains(why) && error.contains(".zectreignore"), "{error}");
            fs::remove_file(&path).expect("removable");
        }
    }

    #[test]
    fn nothing_and_too_much_are_refused_with_a_way_out() {
        let empty = tempfile::tempdir().expect("a temporary directory");
        assert!(matches!(pack(empty.path()), Err(PackError::Empty(_))));
        let big = project(&[("data.bin", "")]);
        fs::File::create(big.path().join("data.bin"))
            .expect("there")
            .set_len(FILES_BYTES_MAX + 1)
            .expect("sparse");
        let error = pack(big.path()).err().expect("too large").to_string();
        assert!(error.contains("256 MiB") && error.contains("data.bin"), "{error}");
    }
}
