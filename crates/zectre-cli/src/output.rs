//! Where words go: data to stdout, everything else to stderr, and nothing else when asked to be quiet.

use crate::{args::Global, progress::Progress};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// How this run talks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Data as JSON.
    pub(crate) json: bool,
    quiet: bool,
    /// A person is watching stderr.
    pub(crate) terminal: bool,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        Self {
            json: global.json,
            quiet: global.quiet,
            terminal: io::stderr().is_terminal(),
        }
    }

    /// A line of data.
    #[expect(
        clippy::unused_self,
        reason = "data is said by the same one as everything else"
    )]
    pub(crate) fn data(self, line: impl AsRef<str>) {
        let mut out = io::stdout().lock();
        if writeln!(out, "{}", line.as_ref()).is_err() {
            // The reader (`| head`) has gone: nobody is left to talk to.
            std::process::exit(0);
        }
    }

    /// A value as JSON, or as what `human` prints.
    pub(crate) fn value<T: Serialize>(self, value: &T, human: impl FnOnce(&T)) {
        if self.json {
            self.data(serde_json::to_string_pretty(value).expect("wire types are valid JSON"));
        } else {
            human(value);
        }
    }

    /// One JSON value on one line, for streams.
    pub(crate) fn json_line<T: Serialize>(self, value: &T) {
        self.data(serde_json::to_string(value).expect("wire types are valid JSON"));
    }

    /// A remark for a person.
    pub(crate) fn say(self, line: impl AsRef<str>) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{}", line.as_ref());
        }
    }

    /// Something that takes a while begins.
    pub(crate) fn progress(self, message: impl Into<String>) -> Progress {
        Progress::new(self, message.into(), self.terminal && !self.quiet)
    }
}
