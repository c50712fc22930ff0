use super::*;
use flate2::{Compression, write::GzEncoder};
use std::io::Write;
use tar::{Builder, Header};

const BOUNDS: Bounds = Bounds {
    unpacked_bytes_max: 1 << 20,
    files_max: 100,
};

struct Case {
    dir: tempfile::TempDir,
    tar: Builder<Vec<u8>>,
}

impl Case {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a directory"),
            tar: Builder::new(Vec::new()),
        }
    }

    /// Written field by field: the builder itself refuses bad names.
    fn raw(mut self, name: &[u8], kind: EntryType, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        if !link.is_empty() {
            header.set_link_name(link).expect("it fits");
        }
        header.set_mode(0o777);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.tar.append(&header, content).expect("in memory");
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.raw(name.as_bytes(), EntryType::Regular, "", content)
    }

    fn unpack(self) -> (tempfile::TempDir, Result<PathBuf, SourceError>) {
        let bytes = self.tar.into_inner().expect("in memory");
        unpack_bytes(self.dir, &bytes)
    }

    fn refused(self) -> String {
        match self.unpack().1 {
            Err(SourceError::Refused(message)) => message,
            other => panic!("it must be refused, not {other:?}"),
        }
    }
}

fn unpack_bytes(dir: tempfile::TempDir, bytes: &[u8]) -> (tempfile::TempDir, Result<PathBuf, SourceError>) {
    let (archive, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::write(&archive, bytes).expect("written");
    fs::create_dir(&target).expect("made");
    let result = unpack(&archive, &target, BOUNDS);
    (dir, result)
}

#[test]
fn plain_and_gzip_archives_come_out() {
    let case = Case::new()
        .file("./src/main.tish", b"print(1)")
        .file("zectre.yaml", b"name: a\n");
    let bytes = case.tar.into_inner().expect("in memory");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&bytes).expect("in memory");
    for bytes in [bytes, gzip.finish().expect("in memory")] {
        let (_dir, root) = unpack_bytes(tempfile::tempdir().expect("a directory"), &bytes);
        let root = root.expect("it is a good archive");
        assert_eq!(
            fs::read(root.join("src/main.tish")).expect("it is there"),
            b"print(1)"
        );
    }
}

#[test]
fn a_damaged_gzip_is_refused_up_to_its_last_byte() {
    let case = Case::new().file("src/main.tish", b"print(1)");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    let tar = case.tar.into_inner().expect("in memory");
    gzip.write_all(&tar).expect("in memory");
    let good = gzip.finish().expect("in memory");
    // The last eight bytes are the checksum and the length, which lie behind the archive's own end.
    for at in 1..=8 {
        let mut bad = good.clone();
        let byte = bad.len() - at;
        bad[byte] ^= 0x55;
        let (_dir, unpacked) = unpack_bytes(tempfile::tempdir().expect("a directory"), &bad);
        assert!(
            matches!(unpacked, Err(SourceError::Refused(_))),
            "byte {at} from the end"
        );
    }
    let short = &good[..good.len() - 4];
    let (_dir, unpacked) = unpack_bytes(tempfile::tempdir().expect("a directory"), short);
    assert!(matches!(unpacked, Err(SourceError::Refused(_))));
    // Padding after the end is no damage, but it has a bound too.
    for (zeros, fits) in [(10_240, true), (BOUNDS.unpacked_bytes_max as usize, false)] {
        let mut padded = tar.clone();
        padded.resize(padded.len() + zeros, 0);
        let (_dir, unpacked) = unpack_bytes(tempfile::tempdir().expect("a directory"), &padded);
        assert_eq!(unpacked.is_ok(), fits, "{zeros} zeros");
    }
}

#[test]
fn no_raw_byte_reaches_a_message() {
    let hostile = "\u{1b}[2J\u{7}\u{0}\u{fffd}".as_bytes();
    let mut header = Header::new_ustar();
    let bytes = header.as_mut_bytes();
    bytes[..5].copy_from_slice(b"a.txt");
    // The size and the checksum as numbers that are none: libraries quote such fields.
    bytes[124..124 + hostile.len()].copy_from_slice(hostile);
    header.set_cksum();
    let mut damaged = header.as_bytes().to_vec();
    damaged.resize(1_024, 0x1b);
    let mut wrong_sum = damaged.clone();
    wrong_sum[148..152].copy_from_slice(b"\x1b[31");
    let mut random = vec![0x1b_u8; 4_096];
    random[..2].copy_from_slice(&[0x1f, 0x8b]);
    for bytes in [damaged, wrong_sum, random] {
        let (_dir, unpacked) = unpack_bytes(tempfile::tempdir().expect("a directory"), &bytes);
        let message = unpacked.expect_err("it is no archive").to_string();
        assert!(!message.chars().any(char::is_control), "{message:?}");
        assert!(message.len() < 400, "{message}");
    }
}

#[test]
fn one_directory_around_everything_is_the_project() {
    let (_dir, root) = Case::new().file("hello/src/main.tish", b"1").unpack();
    assert!(root.expect("good").ends_with("target/hello"));
    let (_dir, root) = Case::new().file("src/main.tish", b"1").unpack();
    assert!(root.expect("good").ends_with("target"));
}

#[test]
fn long_names_of_both_kinds_come_out() {
    let name = format!("src/{}/main.tish", "d".repeat(150));
    let mut case = Case::new();
    let mut header = Header::new_gnu();
    header.set_size(1);
    case.tar
        .append_data(&mut header, &name, &b"1"[..])
        .expect("in memory");
    let (_dir, root) = case.unpack();
    assert!(root.expect("good").join(&name).is_file());

    let record = |key: &str, value: &str| {
        let rest = format!(" {key}={value}\n");
        format!("{}{rest}", rest.len() + 3)
    };
    let pax = record("path", &name);
    let (_dir, root) = Case::new()
        .raw(b"x", EntryType::XHeader, "", pax.as_bytes())
        .file("short", b"1")
        .unpack();
    assert!(root.expect("good").join(&name).is_file());
    let with_header = |pax: &str| {
        let case = Case::new().raw(b"x", EntryType::XHeader, "", pax.as_bytes());
        case.file("short", b"1").refused()
    };
    let odd = with_header("21 path=src/a\nb.tish\n");
    assert_eq!(odd, "`src/a\\nb.tish` has control characters in its name");
    for damaged in [
        "9 path",
        "x path=a\n",
        "99 path=a\n",
        "0 path=a\n",
        "8 path=a",
        "6 path\n",
    ] {
        assert!(with_header(damaged).contains("damaged"), "{damaged}");
    }
}

#[test]
fn paths_that_lead_out_are_named() {
    assert!(
        Case::new()
            .file("../evil", b"1")
            .refused()
            .contains("`../evil` leads out")
    );
    assert!(
        Case::new()
            .file("a/../../evil", b"1")
            .refused()
            .contains("leads out")
    );
    assert!(
        Case::new()
            .file("/etc/passwd", b"1")
            .refused()
            .contains("`/etc/passwd` has an absolute path")
    );
    assert!(
        Case::new()
            .raw(b"a\nb", EntryType::Regular, "", b"1")
            .refused()
            .contains("control characters")
    );
    assert!(
        Case::new()
            .raw(b"a\xffb", EntryType::Regular, "", b"1")
            .refused()
            .contains("not UTF-8")
    );
}

#[test]
fn links_and_devices_are_named() {
    let link = Case::new().raw(b"link", EntryType::Symlink, "/etc/passwd", b"");
    assert!(link.refused().contains("`link` is a symbolic link"));
    assert!(
        Case::new()
            .raw(b"hard", EntryType::Link, "x", b"")
            .refused()
            .contains("a hard link")
    );
    assert!(
        Case::new()
            .raw(b"dev", EntryType::Char, "", b"")
            .refused()
            .contains("a device")
    );
    assert!(
        Case::new()
            .raw(b"pipe", EntryType::Fifo, "", b"")
            .refused()
            .contains("a named pipe")
    );
    assert!(
        Case::new()
            .raw(b"odd", EntryType::new(b'Z'), "", b"")
            .refused()
            .contains("something else")
    );
}

#[test]
fn tricks_with_duplicates_are_refused() {
    assert!(
        Case::new()
            .file("a", b"1")
            .file("./a", b"2")
            .refused()
            .contains("twice")
    );
    assert!(
        Case::new()
            .file("a", b"1")
            .file("a/b", b"2")
            .refused()
            .contains("as a file and as a directory")
    );
    assert!(
        Case::new()
            .file("a/b", b"1")
            .file("a", b"2")
            .refused()
            .contains("as a file and as a directory")
    );
}

#[test]
fn bombs_and_crowds_are_refused() {
    let big = vec![0_u8; 700 << 10];
    let message = Case::new().file("one", &big).file("two", &big).refused();
    assert!(
        message.contains("unpacks to more than 1048576 bytes") && message.contains("`two`"),
        "{message}"
    );
    let crowd = (0..101).fold(Case::new(), |case, n| case.file(&format!("f{n}"), b""));
    assert!(crowd.refused().contains("more than 100 files"));
    let long = vec![b'a'; 100 << 10];
    let message = Case::new()
        .raw(b"x", EntryType::GNULongName, "", &long)
        .file("a", b"1")
        .refused();
    assert!(message.contains("too long"), "{message}");
}

#[test]
fn what_is_written_counts_and_not_how_it_is_told() {
    // Each with directories of its own: few entries, many of what a disk must hold.
    let deep = |n: u32| format!("{n}/{}f", "d/".repeat(40));
    let crowd = (0..50).fold(Case::new(), |case, n| case.file(&deep(n), b""));
    let (dir, unpacked) = crowd.unpack();
    let message = unpacked.expect_err("2,050 directories").to_string();
    assert!(
        message.contains("more than 100 directories (build.files_max)"),
        "{message}"
    );
    assert!(!dir.path().join("target").join("3").exists(), "it stops there");
    // Names that take a header of their own, in directories that are told too.
    let long = |n: u32| format!("{}/{}/f{n}", "d".repeat(120), "e".repeat(120));
    let mut case = Case::new();
    for n in 0..BOUNDS.files_max {
        let mut header = Header::new_gnu();
        header.set_size(0);
        case.tar
            .append_data(&mut header, long(n), &b""[..])
            .expect("in memory");
        case = case.raw(b"src/", EntryType::Directory, "", b"");
    }
    let (_dir, root) = case.unpack();
    assert!(
        root.expect("as many files as there may be")
            .join(long(99))
            .is_file()
    );
    // An end there is all the same.
    let headers = (0..801).fold(Case::new(), |case, _| {
        case.raw(b"./", EntryType::Directory, "", b"")
    });
    assert!(headers.refused().contains("more than 800 headers"));
}

#[test]
fn a_gzip_bomb_stops_at_the_bound() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut header = Header::new_ustar();
    header.set_path("zeros").expect("it fits");
    header.set_size(4 << 30);
    header.set_cksum();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(header.as_bytes()).expect("in memory");
    gzip.write_all(&vec![0; 32 << 20]).expect("in memory");
    let (dir, result) = unpack_bytes(dir, &gzip.finish().expect("in memory"));
    assert!(matches!(result, Err(SourceError::Refused(message)) if message.contains("unpacks to more")));
    assert!(!dir.path().join("target/zeros").exists());
}

#[test]
fn what_is_no_archive_is_refused() {
    let dir = || tempfile::tempdir().expect("a directory");
    for bytes in [
        &b"hello, I am text"[..],
        &[0x1f, 0x8b, 1, 2, 3],
        &[7; 2_048],
        &[0x9c; 2_048],
    ] {
        let (_dir, result) = unpack_bytes(dir(), bytes);
        let Err(SourceError::Refused(message)) = result else {
            panic!("it must be refused, not {result:?}");
        };
        assert!(
            message.is_ascii() && message.contains("not a whole tar archive"),
            "{message}"
        );
    }
    assert!(Case::new().refused().contains("no files"));
    let mut bytes = Case::new()
        .file("a", &[1; 5_000])
        .tar
        .into_inner()
        .expect("in memory");
    bytes.truncate(3_000);
    let (_dir, result) = unpack_bytes(dir(), &bytes);
    assert!(matches!(result, Err(SourceError::Refused(message)) if message.contains("cut short")));
}
