//! Questions to a person, and values from standard input.

use crate::error::CliError;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use secrecy::SecretString;
use std::io::{self, BufRead, IsTerminal, Read, Write};

/// The longest value read from standard input.
const INPUT_BYTES_MAX: u64 = 64 * 1024;

/// One line, after asking for it when a person is there.
pub(crate) fn line(question: &str) -> Result<String, CliError> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        eprint!("{question}: ");
        let _ = io::stderr().flush();
    }
    let mut line = String::new();
    let read = stdin.lock().take(INPUT_BYTES_MAX).read_line(&mut line)?;
    if read == 0 {
        return Err(CliError::Usage(format!(
            "{question}: nothing was given on standard input"
        )));
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// One line that isn't shown while it is typed.
pub(crate) fn secret(question: &str) -> Result<SecretString, CliError> {
    let stdin = io::stdin();
    let shown = if stdin.is_terminal() {
        tcgetattr(&stdin).ok()
    } else {
        None
    };
    if let Some(shown) = &shown {
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        let _ = tcsetattr(&stdin, OptionalActions::Flush, &hidden);
    }
    let answer = line(question);
    if let Some(shown) = &shown {
        let _ = tcsetattr(&stdin, OptionalActions::Flush, shown);
        eprintln!();
    }
    answer.map(SecretString::from)
}

/// All of standard input, without the last line's end.
pub(crate) fn rest() -> Result<String, CliError> {
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(INPUT_BYTES_MAX)
        .read_to_string(&mut text)?;
    Ok(text
        .strip_suffix('\n')
        .map(|text| text.strip_suffix('\r').unwrap_or(text).to_owned())
        .unwrap_or(text))
}

/// Whether a person agrees; without one, nothing is agreed.
pub(crate) fn confirm(question: &str) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    Ok(matches!(
        line(&format!("{question} [y/N]"))?.trim(),
        "y" | "Y" | "yes"
    ))
}
