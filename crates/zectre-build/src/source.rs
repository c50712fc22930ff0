//! Unpacks a source archive that a stranger may have made.
//!
//! Only directories and plain files come out, each below the target and each once: no link is ever created,
//! so no path can lead through one. Every bound is checked before the bytes are written.

use flate2::read::MultiGzDecoder;
use std::{
    collections::HashSet,
    fs,
    io::{self, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tar::{Archive, Entry, EntryType};

/// The longest path of an entry, and of one part of it (what Linux file systems take).
const PATH_BYTES_MAX: usize = 1_024;
const PART_BYTES_MAX: usize = 255;
/// The deepest nesting.
const DEPTH_MAX: usize = 64;
/// Headers for each file that an archive may hold: of a file's and its directory's own, and those that come before them.
const HEADERS_EACH_MAX: u32 = 8;
/// The largest extension header (long names and the like).
const EXTENSION_BYTES_MAX: u64 = 64 * 1024;

/// So much of a name, or of a library's sentence, is shown.
const SHOWN_CHARS_MAX: usize = 120;

/// How much an archive may hold.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of all files together (`build.unpacked_bytes_max`).
    pub unpacked_bytes_max: u64,
    /// Files, and, counted on their own, the directories that are made for them (`build.files_max`).
    pub files_max: u32,
}

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Its sender is at fault; the sentence names the entry.
    #[error("{0}")]
    Refused(String),
    /// This machine is.
    #[error("could not unpack the source: {0}")]
    Disk(#[source] io::Error),
}

fn refused<T>(message: impl Into<String>) -> Result<T, SourceError> {
    Err(SourceError::Refused(message.into()))
}

/// Unpacks the tar archive (plain or gzip) `archive` into the existing, empty directory `target`, and returns
/// the project's root: `target`, or the one directory that everything lies in.
pub fn unpack(archive: &Path, target: &Path, bounds: Bounds) -> Result<PathBuf, SourceError> {
    let mut file = fs::File::open(archive).map_err(SourceError::Disk)?;
    let mut magic = [0_u8; 2];
    let gzip = file.read(&mut magic).map_err(SourceError::Disk)? == 2 && magic == [0x1f, 0x8b];
    io::Seek::rewind(&mut file).map_err(SourceError::Disk)?;
    let reader: Box<dyn Read> = if gzip {
        Box::new(MultiGzDecoder::new(BufReader::new(file)))
    } else {
        Box::new(BufReader::new(file))
    };
    let mut rest: Box<dyn Read> = reader;
    let mut unpacking = Unpacking {
        target,
        bounds,
        seen: HashSet::new(),
        bytes: 0,
        files: 0,
        directories: 0,
    };
    unpacking.run(&mut rest)?;
    drain(&mut rest, bounds)?;
    root(target)
}

/// Reads what follows the archive's end: only at the very end does gzip tell whether all bytes were right, and the
/// padding there is of any length.
fn drain(rest: &mut Box<dyn Read>, bounds: Bounds) -> Result<(), SourceError> {
    let read = io::copy(&mut rest.take(bounds.unpacked_bytes_max), &mut io::sink()).map_err(unreadable)?;
    if read < bounds.unpacked_bytes_max {
        return Ok(());
    }
    refused(format!(
        "more than {} bytes (build.unpacked_bytes_max) follow the end of the source archive",
        bounds.unpacked_bytes_max
    ))
}

/// Archives of a directory (`tar czf app.tgz app/`) carry its name: then that directory is the project.
fn root(target: &Path) -> Result<PathBuf, SourceError> {
    let mut entries = fs::read_dir(target).map_err(SourceError::Disk)?;
    match (entries.next(), entries.next()) {
        (Some(Ok(only)), None) if only.file_name() != "src" && only.path().is_dir() => Ok(only.path()),
        _ => Ok(target.to_owned()),
    }
}

struct Unpacking<'a> {
    target: &'a Path,
    bounds: Bounds,
    seen: HashSet<PathBuf>,
    bytes: u64,
    files: u32,
    directories: u32,
}

impl Unpacking<'_> {
    fn run(&mut self, reader: &mut Box<dyn Read>) -> Result<(), SourceError> {
        let mut archive = Archive::new(reader);
        // Raw: the library would read an extension header of any size into memory.
        let entries = archive.entries().map_err(unreadable)?.raw(true);
        let mut long_name: Option<Vec<u8>> = None;
        let headers_max = self.bounds.files_max.saturating_mul(HEADERS_EACH_MAX);
        for (n, entry) in (1_u32..).zip(entries) {
            let mut entry = entry.map_err(unreadable)?;
            // Nothing is written for most of them, but each is looked at.
            if n > headers_max {
                return refused(format!(
                    "the source archive has more than {headers_max} headers ({HEADERS_EACH_MAX} for each file of build.files_max)"
                ));
            }
            match entry.header().entry_type() {
                EntryType::GNULongName => long_name = Some(long_gnu(&mut entry)?),
                EntryType::XHeader => long_name = long_pax(&mut entry)?.or_else(|| long_name.take()),
                // About all entries (git puts its commit there), and the name of a link's target.
                EntryType::XGlobalHeader | EntryType::GNULongLink => drop(extension(&mut entry)?),
                kind => {
                    let name = long_name
                        .take()
                        .unwrap_or_else(|| entry.path_bytes().into_owned());
                    self.entry(&mut entry, kind, &name)?;
                }
            }
        }
        if self.files == 0 {
            refused("the source archive holds no files")
        } else {
            Ok(())
        }
    }

    /// Writes one entry.
    fn entry(
        &mut self,
        entry: &mut Entry<'_, &mut Box<dyn Read>>,
        kind: EntryType,
        name: &[u8],
    ) -> Result<(), SourceError> {
        let path = inside(name)?;
        let what = match kind {
            EntryType::Regular | EntryType::Continuous => None,
            EntryType::Directory => {
                // `./` is the target itself.
                if !path.as_os_str().is_empty() {
                    self.directory(&path)?;
                }
                return Ok(());
            }
            EntryType::Symlink => Some("a symbolic link"),
            EntryType::Link => Some("a hard link"),
            EntryType::Char | EntryType::Block => Some("a device"),
            EntryType::Fifo => Some("a named pipe"),
            EntryType::GNUSparse => Some("a sparse file"),
            _ => Some("something else than a file or a directory"),
        };
        if let Some(what) = what {
            return refused(format!(
                "`{}` is {what}: a source archive may hold files and directories only",
                shown(name)
            ));
        }
        if path.as_os_str().is_empty() {
            return refused("the source archive holds a file without a name");
        }
        self.file(entry, &path, name)
    }

    /// Makes it and those above it, where they are not there.
    fn directory(&mut self, path: &Path) -> Result<(), SourceError> {
        let mut made = self.target.to_owned();
        for part in path.components() {
            made.push(part);
            match fs::create_dir(&made) {
                // Whatever this worker's umask: the build reads it as another user.
                Ok(()) => {
                    fs::set_permissions(&made, fs::Permissions::from_mode(0o755))
                        .map_err(SourceError::Disk)?;
                    self.directories += 1;
                    self.check(self.directories, "directories")?;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && made.is_dir() => {}
                Err(error) => return Err(clash(path, error)),
            }
        }
        Ok(())
    }

    fn check(&self, number: u32, what: &str) -> Result<(), SourceError> {
        let most = self.bounds.files_max;
        if number <= most {
            return Ok(());
        }
        refused(format!(
            "the source has more than {most} {what} (build.files_max); leave out what the build doesn't need"
        ))
    }

    fn file(
        &mut self,
        entry: &mut Entry<'_, &mut Box<dyn Read>>,
        path: &Path,
        name: &[u8],
    ) -> Result<(), SourceError> {
        self.files += 1;
        self.check(self.files, "files")?;
        let size = entry.size();
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.bounds.unpacked_bytes_max {
            return refused(format!(
                "the source unpacks to more than {} bytes (build.unpacked_bytes_max), at `{}`",
                self.bounds.unpacked_bytes_max,
                shown(name)
            ));
        }
        if !self.seen.insert(path.to_owned()) {
            return refused(format!("`{}` is in the source archive twice", shown(name)));
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.directory(parent)?;
        }
        let opened = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(self.target.join(path));
        let mut file = opened.map_err(|error| clash(path, error))?;
        file.set_permissions(fs::Permissions::from_mode(0o644))
            .map_err(SourceError::Disk)?;
        let copied = copy(entry, &mut file)?;
        if copied == size {
            Ok(())
        } else {
            refused(format!("the source archive is cut short, at `{}`", shown(name)))
        }
    }
}

/// Like `io::copy`, but it tells a bad archive from a bad disk.
fn copy(from: &mut impl Read, to: &mut fs::File) -> Result<u64, SourceError> {
    let mut buffer = vec![0_u8; 64 * 1024];
    let mut copied = 0;
    loop {
        let read = from.read(&mut buffer).map_err(unreadable)?;
        if read == 0 {
            return Ok(copied);
        }
        io::Write::write_all(to, &buffer[..read]).map_err(SourceError::Disk)?;
        copied += read as u64;
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn unreadable(error: io::Error) -> SourceError {
    // The libraries' own sentences may quote what they read, which says nothing where it is no text.
    let why = error.to_string();
    let is_text = why.len() <= SHOWN_CHARS_MAX && why.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let why = if is_text {
        why
    } else {
        "there are other bytes where a header of a tar archive has its numbers".into()
    };
    SourceError::Refused(format!(
        "the source is not a whole tar archive (plain or gzip): {why}"
    ))
}

/// A file where a directory must be, or the other way round: the archive contradicts itself.
fn clash(path: &Path, error: io::Error) -> SourceError {
    use io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory};
    if matches!(error.kind(), AlreadyExists | IsADirectory | NotADirectory) {
        SourceError::Refused(format!(
            "`{}` is in the source archive as a file and as a directory",
            path.display()
        ))
    } else {
        SourceError::Disk(error)
    }
}

fn extension(entry: &mut Entry<'_, &mut Box<dyn Read>>) -> Result<Vec<u8>, SourceError> {
    if entry.size() > EXTENSION_BYTES_MAX {
        return refused("the source archive has a name or an extension header that is too long");
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

fn long_gnu(entry: &mut Entry<'_, &mut Box<dyn Read>>) -> Result<Vec<u8>, SourceError> {
    let mut name = extension(entry)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn long_pax(entry: &mut Entry<'_, &mut Box<dyn Read>>) -> Result<Option<Vec<u8>>, SourceError> {
    let bytes = extension(entry)?;
    let (mut name, mut rest) = (None, &bytes[..]);
    while !rest.is_empty() {
        let Some((key, value, after)) = pax_record(rest) else {
            return refused("the source archive has a damaged extension header");
        };
        rest = after;
        match key {
            b"path" => name = Some(value.to_vec()),
            // It would say that the data is longer or shorter than the header does; only files past
            // 8 GiB need it.
            b"size" => return refused("the source archive holds a file that is too large"),
            _ => {}
        }
    }
    Ok(name)
}

/// The first record of a pax header, `LENGTH KEY=VALUE\n`, and what follows it. Its length says where it ends: a value
/// may hold line feeds (which the library takes for an end).
fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let field = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = field.iter().position(|byte| *byte == b'=')?;
    Some((&field[..equals], &field[equals + 1..], rest))
}

/// The entry's path, proven to lie below the target.
fn inside(name: &[u8]) -> Result<PathBuf, SourceError> {
    let odd = |why: &str| refused(format!("`{}` {why}", shown(name)));
    let Ok(text) = std::str::from_utf8(name) else {
        return odd("has a name that is not UTF-8");
    };
    if text.len() > PATH_BYTES_MAX {
        return odd("has a name that is too long");
    }
    if text.starts_with('/') {
        return odd("has an absolute path: pack the project from inside its directory");
    }
    if text.chars().any(char::is_control) {
        return odd("has control characters in its name");
    }
    let mut path = PathBuf::new();
    for part in text.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            return odd("leads out of the project (`..`)");
        }
        if part.len() > PART_BYTES_MAX {
            return odd("has a name that is too long");
        }
        path.push(part);
    }
    if path.components().count() > DEPTH_MAX {
        odd("lies too deep")
    } else {
        Ok(path)
    }
}

/// A name for a sentence: printable, and not long.
fn shown(name: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(name)
        .chars()
        .take(SHOWN_CHARS_MAX)
        .collect();
    text.escape_debug().to_string()
}

#[cfg(test)]
mod tests;
