//! The ports that the kernel gives to outgoing connections, of which a daemon keeps its own.
//!
//! The default ports lie among them. While a daemon is away any connection of the machine may get its port, and
//! keep it for hours: the daemon could not come back. What is reserved is given to nobody, and still listened on by
//! whoever asks for it by number.

use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    ops::RangeInclusive,
};

const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The ports that this machine (or its network namespace) gives to connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    range: RangeInclusive<u16>,
    reserved: Vec<RangeInclusive<u16>>,
}

impl Given {
    /// As the kernel has it now; none where it does not tell.
    pub fn read() -> Option<Self> {
        let read = |path| whole(&mut File::open(path)?);
        Self::parse(&read(RANGE).ok()?, &read(RESERVED).unwrap_or_default())
    }

    /// From the texts of `ip_local_port_range` (`32768 60999`) and `ip_local_reserved_ports` (`8080,47000-47100`).
    pub fn parse(range: &str, reserved: &str) -> Option<Self> {
        let mut bounds = range
            .split_ascii_whitespace()
            .filter_map(|bound| bound.parse::<u16>().ok());
        let range = bounds.next()?..=bounds.next()?;
        let reserved = reserved.split(',').filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
        });
        Some(Self {
            range,
            reserved: reserved.collect(),
        })
    }

    /// From the first to the last, those included that are reserved.
    pub fn range(&self) -> &RangeInclusive<u16> {
        &self.range
    }

    /// Whether a connection may get this port.
    pub fn includes(&self, port: u16) -> bool {
        self.range.contains(&port) && !self.reserved.iter().any(|range| range.contains(&port))
    }
}

/// Keeps `port` from connections until the machine starts again; whether there was anything to do.
///
/// # Errors
/// Whoever may not change the machine's settings: not root, or `/proc/sys` is read-only, as in most containers. And
/// [`io::ErrorKind::WouldBlock`] while somebody else changes them, which takes no time: try again.
pub(crate) fn reserve(port: u16) -> io::Result<bool> {
    if Given::read().is_none_or(|given| !given.includes(port)) {
        return Ok(false);
    }
    // What is written takes the place of what was there: daemons that start together would undo each other's. Everybody may
    // lock what everybody may read, so that it is not waited for here.
    let file = File::options().read(true).write(true).open(RESERVED)?;
    let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error)?;
    let reserved = whole(&mut file)?;
    file.rewind()?;
    file.write_all(with(&reserved, port).as_bytes())?;
    Ok(true)
}

/// The longest list that is read: every second port by itself is longer, and nobody's.
const LIST_BYTES_MAX: usize = 64 << 10;

/// All of such a file. The kernel gives it to one reading from its beginning and nothing to the next, so that whoever reads a piece at
/// first has that piece alone, and would write it back as the whole.
fn whole(file: &mut File) -> io::Result<String> {
    let mut bytes = vec![0; LIST_BYTES_MAX];
    let length = file.read(&mut bytes)?;
    if length == LIST_BYTES_MAX {
        return Err(io::Error::other("the list is too long to be read whole"));
    }
    bytes.truncate(length);
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// A list with one port more.
fn with(reserved: &str, port: u16) -> String {
    match reserved.trim() {
        "" => format!("{port}\n"),
        others => format!("{others},{port}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_not_given() {
        let given = Given::parse("32768\t60999\n", "1,40000-40002,47080\n").expect("as Linux has it");
        assert_eq!(given.range(), &(32_768..=60_999));
        assert!(given.includes(32_768) && given.includes(60_999) && given.includes(40_003));
        for port in [32_767, 61_000, 40_000, 40_002, 47_080] {
            assert!(!given.includes(port), "{port}");
        }
        assert_eq!(Given::parse("nonsense", ""), None);
    }

    /// In a network namespace of its own, which has lists of its own. Needs root.
    #[test]
    fn whatever_else_is_reserved_stays_so() {
        let lists = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may");
            let others: Vec<String> = (0..200).map(|index| (33_001 + 2 * index).to_string()).collect();
            std::fs::write(RESERVED, others.join(",")).expect("root may");
            let done = [47_092, 47_080, 47_092].map(|port| reserve(port).expect("root may"));
            let list = whole(&mut File::open(RESERVED).expect("it is there")).expect("it is short");
            (others, done, list, Given::read().expect("Linux tells"))
        });
        let (others, done, list, given) = lists.join().expect("no panic");
        assert_eq!(done, [true, true, false]);
        assert_eq!(list.trim(), format!("{},47080,47092", others.join(",")));
        assert!(!given.includes(47_080) && !given.includes(33_399) && given.includes(33_400));
    }

    #[test]
    fn a_port_comes_to_those_that_are_reserved() {
        assert_eq!(with("\n", 47_092), "47092\n");
        assert_eq!(with("1,40000-40002\n", 47_092), "1,40000-40002,47092\n");
    }
}
