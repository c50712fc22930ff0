//! Structured logs: text on a terminal, JSON otherwise; every line within a request carries its id.

use std::{ffi::OsStr, io::IsTerminal};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};
use zectre_common::config::LogFormat;

/// The filter is not one.
#[derive(Debug, thiserror::Error)]
#[error("logs.filter `{filter}` is not a filter such as `info` or `zectre_proxy=debug,info`: {source}")]
pub struct FilterError {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Sets up the process's logs, to standard error. A second call changes nothing.
pub fn init(filter: &str, format: LogFormat) -> Result<(), FilterError> {
    init_to(filter, format, std::io::stderr, std::io::stderr().is_terminal())
}

/// Like [`init`], with another destination.
pub fn init_to<W>(filter: &str, format: LogFormat, writer: W, terminal: bool) -> Result<(), FilterError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter).map_err(|source| FilterError {
        filter: filter.into(),
        source,
    })?;
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(is_coloured(terminal, std::env::var_os("NO_COLOR").as_deref()));
    // An error means that logs are set up already (several services in one process): the first one wins.
    let _ = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.compact().try_init()
    };
    Ok(())
}

/// Whether to colour: on a terminal, and unless `NO_COLOR` is set to anything at all.
fn is_coloured(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_coloured_unless_no_color_says_otherwise() {
        let coloured = |terminal, no_color: Option<&str>| is_coloured(terminal, no_color.map(OsStr::new));
        assert!(coloured(true, None) && coloured(true, Some("")));
        assert!(!coloured(true, Some("1")) && !coloured(true, Some("0")));
        assert!(!coloured(false, None) && !coloured(false, Some("")));
    }
}
