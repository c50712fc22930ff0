//! Unpacks a bundle: plain files and directories only, within bounds, never outside its directory.

use flate2::read::GzDecoder;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};
use tar::{Archive, EntryType};

/// The most bytes a bundle may unpack to.
const BYTES_MAX: u64 = 2 << 30;
/// The most files and directories in it.
const ENTRIES_MAX: usize = 50_000;
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

/// Unpacks `archive` (tar, gzip or not) into the empty directory `into`; says how many bytes its files hold.
pub(super) fn unpack(mut archive: File, into: &Path) -> Result<u64, BundleError> {
    let mut magic = [0; 2];
    let is_gzip = archive.read_exact(&mut magic).is_ok() && magic == GZIP_MAGIC;
    archive.seek(SeekFrom::Start(0))?;
    let reader = BufReader::new(archive);
    if is_gzip {
        unpack_tar(GzDecoder::new(reader), into)
    } else {
        unpack_tar(reader, into)
    }
}

fn unpack_tar(reader: impl Read, into: &Path) -> Result<u64, BundleError> {
    let mut archive = Archive::new(reader);
    let mut bytes_left = BYTES_MAX;
    for (index, entry) in archive.entries()?.enumerate() {
        let entry = entry?;
        let name = entry.path()?.into_owned();
        if index >= ENTRIES_MAX {
            return Err(BundleError::Refused(format!(
                "it has more than {ENTRIES_MAX} entries"
            )));
        }
        let path = into.join(inside(&name)?);
        match entry.header().entry_type() {
            EntryType::Directory => fs::create_dir_all(&path)?,
            EntryType::Regular => bytes_left -= unpack_file(entry, &name, &path, bytes_left)?,
            EntryType::XGlobalHeader => {}
            _ => {
                return Err(refuse(
                    &name,
                    "is neither a file nor a directory; links and devices are not taken",
                ));
            }
        }
    }
    Ok(BYTES_MAX - bytes_left)
}

fn unpack_file(
    mut entry: tar::Entry<'_, impl Read>,
    name: &Path,
    path: &Path,
    bytes_left: u64,
) -> Result<u64, BundleError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
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
}
