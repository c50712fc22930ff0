//! Output that isn't read, because nobody wrote it.

use super::{Pumped, READ_BYTES, STREAMS, Spool, free};
use crate::log::journal::Entry;
use rustix::{fs::SeekFrom, io::Errno};
use std::io;
use zectre_common::time::Time;

/// A file this many times larger than the bound was not written but stretched; its inside isn't looked at.
const STRETCHED: u64 = 64;
/// A hole this large isn't read; smaller ones are at most one read.
const HOLE_BYTES_MIN: u64 = READ_BYTES as u64;

impl Spool {
    /// Passes over what a program can't have written, only declared.
    pub(super) fn skip_stretched(&mut self, raw: usize, now: Time, pumped: &mut Pumped) -> io::Result<()> {
        let (from, to) = (self.head.raw[raw], self.raw[raw].metadata()?.len());
        if to.saturating_sub(from) <= self.bounds.bytes_max.saturating_mul(STRETCHED) {
            return Ok(());
        }
        self.pass_over(raw, to, now, pumped)
    }

    /// Passes over what isn't there: reading it would give nothing but zeros. A program can make its output long without
    /// writing, and a supervisor frees what no agent has read.
    pub(super) fn skip_hole(&mut self, raw: usize, now: Time, pumped: &mut Pumped) -> io::Result<()> {
        let (from, end) = (self.head.raw[raw], self.raw[raw].metadata()?.len());
        if end.saturating_sub(from) < HOLE_BYTES_MIN {
            return Ok(());
        }
        let to = match rustix::fs::seek(&self.raw[raw], SeekFrom::Data(from)) {
            Ok(data) => data.min(end),
            Err(Errno::NXIO) => end,
            // A file system that doesn't tell.
            Err(_) => return Ok(()),
        };
        if to.saturating_sub(from) < HOLE_BYTES_MIN {
            return Ok(());
        }
        self.pass_over(raw, to, now, pumped)
    }

    fn pass_over(&mut self, raw: usize, to: u64, now: Time, pumped: &mut Pumped) -> io::Result<()> {
        let from = self.head.raw[raw];
        let message = format!("{} bytes of {} dropped", to - from, STREAMS[raw].as_str());
        self.append(&[Entry::Passed {
            raw,
            from,
            to,
            lines: 0,
        }])?;
        free(&self.raw[raw], from, to);
        let line = self.note(now, message)?;
        pumped.lines.push(line);
        Ok(())
    }
}
