//! What was measured, as a table for people.

use crate::sample::Samples;
use std::{fmt::Write as _, fs, path::Path};

/// One subject of a benchmark, ours beside the peer.
pub(crate) struct Row {
    subject: &'static str,
    samples: usize,
    ours_ms: [f64; 2],
    peer_ms: [f64; 2],
}

impl Row {
    /// From the times of both.
    pub(crate) fn new(subject: &'static str, ours: &Samples, peer: &Samples) -> Self {
        let both = |samples: &Samples| [samples.percentile_ms(50), samples.percentile_ms(99)];
        Self {
            subject,
            samples: ours.len(),
            ours_ms: both(ours),
            peer_ms: both(peer),
        }
    }
}

/// One benchmark.
pub(crate) struct Report {
    name: &'static str,
    what: &'static str,
    goal: &'static str,
    /// Its subjects.
    pub(crate) rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    /// Without results yet.
    pub(crate) fn new(name: &'static str, what: &'static str, goal: &'static str) -> Self {
        Self {
            name,
            what,
            goal,
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// A figure that fits no table.
    pub(crate) fn note(&mut self, note: String) {
        // At once too: what comes after it may take long, or fail.
        eprintln!("{note}");
        self.notes.push(note);
    }
}

/// Markdown.
pub(crate) fn render(machine: &str, reports: &[Report]) -> String {
    let mut text = format!("\n## {machine}\n");
    for report in reports {
        let _ = write!(
            text,
            "\n### {} (`cargo xtask bench {}`)\n\n{}; {}.\n",
            report.name, report.name, report.what, report.goal
        );
        if !report.rows.is_empty() {
            text += "\n| subject | rounds | ours p50 | ours p99 | bare spawn p50 | bare spawn p99 | ours − bare p50 |\n|---|---|---|---|---|---|---|\n";
        }
        for row in &report.rows {
            let ([ours_p50, ours_p99], [peer_p50, peer_p99]) = (row.ours_ms, row.peer_ms);
            let _ = writeln!(
                text,
                "| {} | {} | {ours_p50:.2} ms | {ours_p99:.2} ms | {peer_p50:.2} ms | {peer_p99:.2} ms | {:.2} ms |",
                row.subject,
                row.samples,
                ours_p50 - peer_p50
            );
        }
        for note in &report.notes {
            let _ = writeln!(text, "\n{note}");
        }
    }
    text
}

/// Adds the results to bench/RESULTS.md.
pub(crate) fn record(text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md");
    let known = fs::read_to_string(&path)
        .unwrap_or_else(|_| "# Results\n\nMeasured by `cargo xtask bench`, newest last.\n".into());
    match fs::write(&path, known + text) {
        Ok(()) => eprintln!("recorded in {}", path.display()),
        Err(error) => eprintln!("{} can't be written: {error}", path.display()),
    }
}
