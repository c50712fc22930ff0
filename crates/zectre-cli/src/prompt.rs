//! Questions to a person, and values from standard input.

use crate::{error::CliError, output::complain};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrecy::SecretString;
use std::io::{self, BufRead, IsTerminal, Read, Write};

/// The longest value read from standard input.
const INPUT_BYTES_MAX: u64 = 64 * 1024;

/// One line, after asking for it when a person is there.
pub(crate) async fn line(question: &str) -> Result<String, CliError> {
    let question = question.to_owned();
    on_input(move || ask(&question)).await
}

fn ask(question: &str) -> Result<String, CliError> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        let mut out = io::stderr().lock();
        let _ = write!(out, "{question}: ").and_then(|()| out.flush());
    }
    let mut line = String::new();
    let read = stdin.lock().take(INPUT_BYTES_MAX).read_line(&mut line)?;
    if read == 0 {
        return Err(CliError::Usage(format!(
            "{question}: nothing was given on standard input. Give it there, or run the command on a terminal."
        )));
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// One line that isn't shown while it is typed.
pub(crate) async fn secret(question: &str) -> Result<SecretString, CliError> {
    let hidden = Hidden::begin();
    let answer = line(question).await;
    drop(hidden);
    answer.map(SecretString::from)
}

/// All of standard input, without the last line's end. Nothing at all is no value (an empty one is a line's end): then
/// `missing` is said.
pub(crate) async fn rest(missing: String) -> Result<String, CliError> {
    on_input(move || {
        let mut text = String::new();
        io::stdin()
            .lock()
            .take(INPUT_BYTES_MAX)
            .read_to_string(&mut text)?;
        if text.is_empty() {
            return Err(CliError::Usage(missing));
        }
        Ok(text
            .strip_suffix('\n')
            .map(|text| text.strip_suffix('\r').unwrap_or(text).to_owned())
            .unwrap_or(text))
    })
    .await
}

/// Whether someone sits at standard input.
pub(crate) fn person_is_there() -> bool {
    io::stdin().is_terminal()
}

/// Whether a person agrees; without one, nothing is agreed.
pub(crate) async fn confirm(question: &str) -> Result<bool, CliError> {
    if !person_is_there() {
        return Ok(false);
    }
    let answer = line(&format!("{question} [y/N]")).await?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Reads on a thread of its own: a person takes their time, and Ctrl-C must be heard meanwhile.
async fn on_input<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    tokio::task::spawn_blocking(read)
        .await
        .map_err(io::Error::other)?
}

/// The terminal shows nothing of what is typed until this is dropped, by an answer or by Ctrl-C.
struct Hidden(Option<Termios>);

impl Hidden {
    fn begin() -> Self {
        let stdin = io::stdin();
        let shown = stdin.is_terminal().then(|| tcgetattr(&stdin).ok()).flatten();
        if let Some(shown) = &shown {
            let mut hidden = shown.clone();
            hidden.local_modes.remove(LocalModes::ECHO);
            let _ = tcsetattr(&stdin, OptionalActions::Flush, &hidden);
        }
        Self(shown)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(shown) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, shown);
            complain("");
        }
    }
}
