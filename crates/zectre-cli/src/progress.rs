//! A spinner on a terminal; plain lines elsewhere.

use crate::output::Output;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Something that takes a while.
pub(crate) struct Progress {
    output: Output,
    bar: Option<ProgressBar>,
    message: String,
    began: Instant,
}

impl Progress {
    pub(crate) fn new(output: Output, message: String, on_terminal: bool) -> Self {
        let bar = on_terminal.then(|| {
            let style = ProgressStyle::with_template("{spinner:.cyan} {msg} {elapsed:.dim}");
            let bar =
                ProgressBar::new_spinner().with_style(style.expect("the template is constant and valid"));
            bar.set_message(message.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            output.say(format!("{message}…"));
        }
        Self {
            output,
            bar,
            message,
            began: Instant::now(),
        }
    }

    /// What is happening now; on a terminal it replaces what was shown, elsewhere only news are printed.
    pub(crate) fn update(&mut self, message: impl Into<String>) {
        let message = message.into();
        if message == self.message {
            return;
        }
        match &self.bar {
            Some(bar) => bar.set_message(message.clone()),
            None => self.output.say(format!("{message}…")),
        }
        self.message = message;
    }

    /// A line above the spinner, such as one of a build's log.
    pub(crate) fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.output.say(line)),
            None => self.output.say(line),
        }
    }

    /// It is done: the spinner goes, a line with the time it took stays.
    pub(crate) fn done(self, message: &str) -> Duration {
        let took = self.began.elapsed();
        self.clear();
        self.output.say(format!("✓ {message} ({})", seconds(took)));
        took
    }

    /// The spinner goes without a word; an error follows.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// `0.4 s`, `12 s`
pub(crate) fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} s", duration.as_secs())
    }
}
