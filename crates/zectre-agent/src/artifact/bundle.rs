//! Unpacks a bundle: plain files and directories only, within bounds, never outside its directory.

use flate2::read::GzDecoder;
use std::{
    cell::Cell,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
    time::{Duration, Instant},
};
use tar::{Archive, EntryType};

/// The most bytes a bundle may unpack to.
const BYTES_MAX: u64 = 2 << 30;
/// The most files in it, and the most directories.
const ENTRIES_MAX: usize = 50_000;
/// How deep they may lie.
const DEPTH_MAX: usize = 64;
/// The most bytes of what comes before a file's own bytes: headers, its long name, the padding of the one before.
const HEADER_BYTES_MAX: u64 = 1 << 20;
/// How long unpacking may take; the largest bundle takes seconds.
const UNPACK_TIMEOUT: Duration = Duration::from_secs(120);
/// The first bytes of a gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The archive is not acceptable; the sentence says which entry.
#[derive(Debug, thiserror::Error)]
pub(super) enum BundleError {
    /// It breaks a rule.
    #[error("the bundle is refused: {0}")]
    Refused(String),
    /// It can't be read or written.
    #[error("the bundle can't be unpacked: {0}")]
    Io(#[from] io::Error),
}

/// What an archive may take, as it is used up.
struct Bounds {
    deadline: Instant,
    /// Bytes that its headers may still have: long names are read into memory whole.
    header_bytes_left: Cell<u64>,
}

/// Reads no more than the bounds allow.
struct Bounded<'a, R> {
    reader: R,
    bounds: &'a Bounds,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if Instant::now() >= self.bounds.deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("it takes longer than {} s", UNPACK_TIMEOUT.as_secs()),
            ));
        }
        let left = self.bounds.header_bytes_left.get();
        if left == 0 {
            return Err(io::Error::other("one of its entries has too large a header"));
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let length = self.reader.read(&mut buffer[..most])?;
        self.bounds.header_bytes_left.set(left - length as u64);
        Ok(length)
    }
}

/// Unpacks `archive` (tar, gzip or not) into the empty directory `into`; says how many bytes its files hold.
pub(super) fn unpack(archive: File, into: &Path) -> Result<u64, BundleError> {
    unpack_until(archive, into, Instant::now() + UNPACK_TIMEOUT)
}

fn unpack_until(mut archive: File, into: &Path, deadline: Instant) -> Result<u64, BundleError> {
    let mut magic = [0; 2];
    let is_gzip = archive.read_exact(&mut magic).is_ok() && magic == GZIP_MAGIC;
    archive.seek(SeekFrom::Start(0))?;
    let reader = BufReader::new(archive);
    let bounds = Bounds {
        deadline,
        header_bytes_left: Cell::new(HEADER_BYTES_MAX),
    };
    if is_gzip {
        unpack_tar(GzDecoder::new(reader), into, &bounds)
    } else {
        unpack_tar(reader, into, &bounds)
    }
}

fn unpack_tar(reader: impl Read, into: &Path, bounds: &Bounds) -> Result<u64, BundleError> {
    let mut archive = Archive::new(Bounded { reader, bounds });
    let mut bytes_left = BYTES_MAX;
    let mut dirs = Dirs { left: ENTRIES_MAX };
    for (index, entry) in archive.entries()?.enumerate() {
        let entry = entry?;
        let name = entry.path()?.into_owned();
        if index >= ENTRIES_MAX {
            return Err(BundleError::Refused(format!(
                "it has more than {ENTRIES_MAX} entries"
            )));
        }
        let inside = inside(&name)?;
        match entry.header().entry_type() {
            EntryType::Directory => dirs.make(into, &inside)?,
            EntryType::Regular => {
                dirs.make(into, inside.parent().unwrap_or(Path::new("")))?;
                // Its bytes have a bound of their own.
                bounds.header_bytes_left.set(u64::MAX);
                bytes_left -= unpack_file(entry, &name, &into.join(inside), bytes_left)?;
            }
            EntryType::XGlobalHeader => {}
            _ => {
                return Err(refuse(
                    &name,
                    "is neither a file nor a directory; links and devices are not taken",
                ));
            }
        }
        bounds.header_bytes_left.set(HEADER_BYTES_MAX);
    }
    Ok(BYTES_MAX - bytes_left)
}

/// Makes directories, those on the way too, as long as there are not too many.
struct Dirs {
    left: usize,
}

impl Dirs {
    fn make(&mut self, into: &Path, inside: &Path) -> Result<(), BundleError> {
        let mut path = into.to_owned();
        for part in inside {
            path.push(part);
            match fs::create_dir(&path) {
                Ok(()) if self.left == 0 => {
                    return Err(BundleError::Refused(format!(
                        "it has more than {ENTRIES_MAX} directories"
                    )));
                }
                Ok(()) => self.left -= 1,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn unpack_file(
    mut entry: tar::Entry<'_, impl Read>,
    name: &Path,
    path: &Path,
    bytes_left: u64,
) -> Result<u64, BundleError> {
    let mode = if entry.header().mode()? & 0o111 == 0 {
        0o644
    } else {
        0o755
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)?;
    // One byte more than is allowed tells a full measure from too much.
    let copied = io::copy(&mut entry.by_ref().take(bytes_left.saturating_add(1)), &mut file)?;
    if copied > bytes_left {
        return Err(refuse(
            name,
            &format!("makes it larger than {} MiB unpacked", BYTES_MAX >> 20),
        ));
    }
    Ok(copied)
}

/// The part of an entry's name that stays below the directory; `..` and absolute names are refused.
pub(super) fn inside(name: &Path) -> Result<PathBuf, BundleError> {
    let mut path = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            _ => return Err(refuse(name, "leads outside of it")),
        }
    }
    if path.components().count() > DEPTH_MAX {
        return Err(refuse(
            name,
            &format!("is more than {DEPTH_MAX} directories deep"),
        ));
    }
    Ok(path)
}

fn refuse(name: &Path, why: &str) -> BundleError {
    let name: String = name.display().to_string().chars().take(200).collect();
    BundleError::Refused(format!("`{name}` {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tar::{Builder, Header};

    fn archive(kind: EntryType, name: &str, body: &[u8]) -> File {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(body.len() as u64);
        header.set_mode(0o755);
        // The builder itself refuses `..`; the raw header doesn't.
        header.as_gnu_mut().expect("a GNU header").name[..name.len()].copy_from_slice(name.as_bytes());
        if kind == EntryType::Symlink {
            header.set_link_name("/etc/passwd").expect("a link name");
        }
        header.set_cksum();
        let mut builder = Builder::new(tempfile::tempfile().expect("a file"));
        builder.append(&header, body).expect("an entry");
        let mut file = builder.into_inner().expect("an archive");
        file.flush().expect("written");
        file.seek(SeekFrom::Start(0)).expect("rewound");
        file
    }

    #[test]
    fn files_are_unpacked_and_the_rest_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let bytes = unpack(archive(EntryType::Regular, "bin/app", b"#!/bin/sh\n"), dir.path())
            .expect("a good bundle");
        assert_eq!(bytes, 10);
        assert_eq!(
            fs::read(dir.path().join("bin/app")).expect("unpacked"),
            b"#!/bin/sh\n"
        );
        for (kind, name) in [
            (EntryType::Regular, "../evil"),
            (EntryType::Regular, "/etc/evil"),
            (EntryType::Regular, "a/../../evil"),
            (EntryType::Symlink, "link"),
            (EntryType::Link, "hard"),
            (EntryType::Char, "device"),
            (EntryType::Fifo, "fifo"),
        ] {
            let error = unpack(archive(kind, name, b""), dir.path()).expect_err(name);
            assert!(matches!(error, BundleError::Refused(_)), "{name}: {error}");
        }
        assert!(!dir.path().parent().expect("a parent").join("evil").exists());
    }

    #[test]
    fn a_broken_archive_is_an_error() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[0x1f, 0x8b, 1, 2, 3]).expect("written");
        file.seek(SeekFrom::Start(0)).expect("rewound");
        let dir = tempfile::tempdir().expect("a directory");
        assert!(unpack(file, dir.path()).is_err());
    }

    fn rewound(mut builder: Builder<File>) -> File {
        builder.finish().expect("finished");
        let mut file = builder.into_inner().expect("an archive");
        file.seek(SeekFrom::Start(0)).expect("rewound");
        file
    }

    fn refused(archive: File) -> String {
        let dir = tempfile::tempdir().expect("a directory");
        unpack(archive, dir.path()).expect_err("refused").to_string()
    }

    #[test]
    fn directories_are_bounded_in_number_and_depth() {
        let file = |builder: &mut Builder<File>, name: &str| {
            let mut header = Header::new_gnu();
            header.set_size(0);
            header.set_mode(0o644);
            builder
                .append_data(&mut header, name, io::empty())
                .expect("an entry");
        };
        let mut deep = Builder::new(tempfile::tempfile().expect("a file"));
        file(&mut deep, &vec!["d"; DEPTH_MAX].join("/"));
        file(&mut deep, &format!("{}f", "d/".repeat(DEPTH_MAX)));
        assert!(refused(rewound(deep)).contains("directories deep"));
        // Few entries, each with many directories of its own on the way.
        let mut dirs = Dirs { left: 3 };
        let dir = tempfile::tempdir().expect("a directory");
        dirs.make(dir.path(), Path::new("a/b")).expect("made");
        dirs.make(dir.path(), Path::new("a/b")).expect("there");
        dirs.make(dir.path(), Path::new("a/c")).expect("made");
        let error = dirs.make(dir.path(), Path::new("a/d")).expect_err("one too many");
        assert!(matches!(error, BundleError::Refused(_)), "{error}");
    }

    #[test]
    fn a_name_that_is_a_bomb_is_not_read() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(HEADER_BYTES_MAX * 4);
        header.set_cksum();
        let mut builder = Builder::new(tempfile::tempfile().expect("a file"));
        let name = io::repeat(b'a').take(HEADER_BYTES_MAX * 4);
        builder.append(&header, name).expect("an entry");
        let error = refused(rewound(builder));
        assert!(error.contains("too large a header"), "{error}");
    }

    #[test]
    fn unpacking_ends_in_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let archive = archive(EntryType::Regular, "bin/app", b"#!/bin/sh\n");
        let error = unpack_until(archive, dir.path(), Instant::now()).expect_err("too late");
        assert!(error.to_string().contains("longer than"), "{error}");
    }
}
