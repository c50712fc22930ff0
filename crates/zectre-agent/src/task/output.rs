//! A container's output on its way into the task's files, each byte once, also across the agent's restarts.
//!
//! The engine can only be asked for what it read since a second. So it is kept where each file ended before the
//! first output of a second: what the files hold beyond is what the engine will repeat. It reads the two streams side
//! by side, so one may bring something that is a moment older than what the other has brought: a second counts as
//! complete once a later one has been seen.

use super::Home;
use crate::log::Spool;
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
};
use zectre_container::{OutputChunk, OutputStream};

/// Where to go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Seconds since 1970.
    second: i64,
    /// Bytes of each file from before that second.
    bytes: [u64; 2],
}

/// The two files, and how far the engine's repetition has come in each.
#[derive(Debug)]
pub(super) struct Copy {
    home: Home,
    files: [File; 2],
    /// Bytes that are here.
    lengths: [u64; 2],
    /// Where the next piece belongs: within what is here, it is left out.
    at: [u64; 2],
    mark: Mark,
    /// The mark after that, once everything before it has come.
    next: Option<Mark>,
}

impl Copy {
    /// Goes on where an earlier copy was left.
    pub(super) fn open(home: &Home) -> io::Result<Self> {
        let [stdout, stderr] = Spool::raw_files(home.dir());
        let files = [open(&stdout)?, open(&stderr)?];
        let lengths = [files[0].metadata()?.len(), files[1].metadata()?.len()];
        let mark: Mark = home.output_mark()?.unwrap_or_default();
        Ok(Self {
            home: home.clone(),
            files,
            lengths,
            at: mark.bytes,
            mark,
            next: None,
        })
    }

    /// Seconds since 1970: what the engine is to be asked for. 0 is everything.
    pub(super) const fn since(&self) -> i64 {
        self.mark.second
    }

    /// Takes a piece of output.
    pub(super) fn take(&mut self, chunk: &OutputChunk) -> io::Result<()> {
        let index = usize::from(chunk.stream == OutputStream::Stderr);
        let here = Mark {
            second: chunk.second,
            bytes: self.at,
        };
        match self.next {
            Some(next) if chunk.second > next.second => {
                self.home.keep_output_mark(&next)?;
                (self.mark, self.next) = (next, Some(here));
            }
            None if chunk.second > self.mark.second => self.next = Some(here),
            _ => {}
        }
        let known = self.lengths[index].saturating_sub(self.at[index]);
        let known = usize::try_from(known)
            .unwrap_or(usize::MAX)
            .min(chunk.bytes.len());
        self.files[index].write_all(&chunk.bytes[known..])?;
        self.at[index] += chunk.bytes.len() as u64;
        self.lengths[index] = self.lengths[index].max(self.at[index]);
        if let Some(next) = &mut self.next
            && chunk.second < next.second
        {
            next.bytes[index] = self.at[index];
        }
        Ok(())
    }
}

fn open(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zectre_common::id::TaskId;

    fn home(dir: &std::path::Path) -> Home {
        let home = Home::of(dir, TaskId::new());
        std::fs::create_dir_all(home.dir()).expect("made");
        home
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// However often the copy is broken off, each stream's bytes arrive once and in order. The engine repeats
        /// whole seconds; within a stream its times never go back, between the two they may.
        #[test]
        fn every_byte_is_copied_once(
            pieces in proptest::collection::vec((any::<bool>(), 0_i64..2, 0_i64..2, 1_usize..5), 1..40),
            breaks in proptest::collection::vec(0_usize..40, 0..6),
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            let home = home(dir.path());
            let (mut clock, mut latest, mut all) = (1_000_i64, [0_i64; 2], Vec::new());
            for (number, (err, step, late, length)) in pieces.into_iter().enumerate() {
                clock += step;
                let index = usize::from(err);
                let second = (clock - late).max(latest[index]);
                latest[index] = second;
                let stream = if err { OutputStream::Stderr } else { OutputStream::Stdout };
                let bytes = vec![b'a' + (number % 26) as u8; length];
                all.push(OutputChunk { stream, second, bytes: bytes.into() });
            }
            // A break after so many pieces of what the engine then gives; at last, all of it.
            for stop in breaks.into_iter().chain([usize::MAX]) {
                let mut copy = Copy::open(&home).expect("opened");
                let since = copy.since();
                let given = all.iter().filter(|chunk| chunk.second >= since).take(stop);
                for chunk in given {
                    copy.take(chunk).expect("copied");
                }
            }
            for (index, path) in Spool::raw_files(home.dir()).iter().enumerate() {
                let wanted: Vec<u8> = all
                    .iter()
                    .filter(|chunk| usize::from(chunk.stream == OutputStream::Stderr) == index)
                    .flat_map(|chunk| chunk.bytes.to_vec())
                    .collect();
                prop_assert_eq!(std::fs::read(path).expect("there"), wanted);
            }
        }
    }
}
