//! Where words go: data to stdout, everything else to stderr, and nothing else when asked to be quiet.

use crate::{args::Global, progress::Progress};
use serde::Serialize;
use std::{
    env,
    ffi::OsStr,
    io::{self, ErrorKind, IsTerminal, Write},
    process,
};

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
    /// That terminal can show something in the place of what it showed before.
    redraws: bool,
    /// The command goes on when nobody reads its data any more.
    goes_on: bool,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        Self {
            json: global.json,
            quiet: global.quiet,
            terminal: io::stderr().is_terminal(),
            redraws: redraws(env::var_os("TERM").as_deref()),
            goes_on: false,
        }
    }

    /// The same for a command that must not end where its data finds no reader: it has something to stop, or a failure to
    /// tell.
    pub(crate) fn going_on(self) -> Self {
        Self {
            goes_on: true,
            ..self
        }
    }

    /// A line of data.
    pub(crate) fn data(self, line: impl AsRef<str>) {
        let written = writeln!(io::stdout().lock(), "{}", line.as_ref());
        match written {
            Err(error) if !self.goes_on => end_without_reader(&error),
            Err(_) | Ok(()) => {}
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
            complain(line);
        }
    }

    /// What a person should know, and who reads JSON has in it.
    pub(crate) fn remark(self, line: impl AsRef<str>) {
        if !self.json {
            self.say(line);
        }
    }

    /// Data alone is asked for.
    pub(crate) fn terse(self) -> bool {
        self.quiet && !self.json
    }

    /// Something that takes a while begins.
    pub(crate) fn progress(self, message: impl Into<String>) -> Progress {
        Progress::new(self, message.into(), self.terminal && self.redraws && !self.quiet)
    }
}

/// Whether a terminal of this name moves its cursor.
fn redraws(term: Option<&OsStr>) -> bool {
    term.is_some_and(|name| !name.is_empty() && name != "dumb")
}

/// Data can't be written. A reader that has gone (`| head`) has what it wanted; anything else (a full disk) is a failure:
/// who reads the file must not take half of it for all.
fn end_without_reader(error: &io::Error) -> ! {
    if error.kind() == ErrorKind::BrokenPipe {
        process::exit(0);
    }
    complain(format!(
        "error: standard output can't be written ({error}), and what is there is not the whole. Make room, or send it elsewhere."
    ));
    process::exit(1)
}

/// A line to standard error, whether or not anybody reads that.
pub(crate) fn complain(line: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", line.as_ref());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_that_moves_its_cursor_gets_a_spinner() {
        assert!(redraws(Some(OsStr::new("xterm-256color"))));
        for none in [None, Some(""), Some("dumb")] {
            assert!(!redraws(none.map(OsStr::new)), "{none:?}");
        }
    }
}
