//! The program that writes the lines: `LINES` of them at `LINES_PER_SEC`, from the moment `START_UNIX_MS` on.
//!
//! Each is numbered and 100 bytes long with its end. The last line tells how long it took to write them, so that a
//! program that was slowed down can't flatter the result; what came too late to its start says so and fails.

use std::path::PathBuf;
use zectre_e2e::native_program;

/// The program.
pub(super) fn logger() -> PathBuf {
    native_program("logger", SOURCE)
}

const SOURCE: &str = r#"
use std::{env, io::{BufWriter, Write, stdout}, process::exit, thread, time::{Duration, Instant, SystemTime, UNIX_EPOCH}};

fn number(name: &str) -> u64 { env::var(name).ok().and_then(|value| value.parse().ok()).expect(name) }

fn main() {
    let (lines, rate) = (number("LINES"), number("LINES_PER_SEC"));
    let start = UNIX_EPOCH + Duration::from_millis(number("START_UNIX_MS"));
    match start.duration_since(SystemTime::now()) {
        Ok(wait) => thread::park_timeout(wait),
        Err(_) => { eprintln!("started too late"); exit(1) }
    }
    let began = Instant::now();
    let mut out = BufWriter::with_capacity(64 * 1024, stdout().lock());
    let mut written = 0;
    while written < lines {
        let due = (began.elapsed().as_micros() as u64 * rate / 1_000_000).min(lines);
        while written < due {
            writeln!(out, "{written:010} {:.<88}", "").expect("it can be written");
            written += 1;
        }
        out.flush().expect("it can be written");
        thread::park_timeout(Duration::from_millis(10));
    }
    writeln!(out, "done {}", began.elapsed().as_micros()).expect("it can be written");
    out.flush().expect("it can be written");
}
"#;
