//! Where words go: data to stdout, everything else to stderr, and nothing else when asked to be quiet.

use crate::{args::Global, progress::Progress};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// A command has said its last word; with `--json`, a JSON document went to stdout. Only [`Output`] makes one, and every
/// command must return one: none can forget the document.
#[derive(Debug)]
#[must_use = "the command returns it"]
pub(crate) struct Shown(());

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
    pub(crate) fn value<T: Serialize>(self, value: &T, human: impl FnOnce(&T)) -> Shown {
        if self.json {
            self.data(serde_json::to_string_pretty(value).expect("wire types are valid JSON"));
        } else {
            human(value);
        }
        Shown(())
    }

    /// What was done: a value as JSON, else a remark.
    pub(crate) fn done<T: Serialize>(self, value: &T, remark: impl AsRef<str>) -> Shown {
        self.value(value, |_| self.say(remark))
    }

    /// An item of a stream: JSON on one line, or the line that `human` makes of it.
    pub(crate) fn item<T: Serialize>(self, item: &T, human: impl FnOnce(&T) -> String) {
        self.data(if self.json {
            serde_json::to_string(item).expect("wire types are valid JSON")
        } else {
            human(item)
        });
    }

    /// A stream has ended, whose items were shown one by one.
    #[expect(
        clippy::unused_self,
        reason = "only who talks can say that everything was said"
    )]
    pub(crate) fn stream_ended(self) -> Shown {
        Shown(())
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
