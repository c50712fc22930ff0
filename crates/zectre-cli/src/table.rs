//! Aligned columns.

use crate::output::Output;
use std::{fmt::Write as _, time::Duration};
use zectre_common::time::Time;

/// The longest cell that others are lined up behind; `--json` has the whole.
const CELL_CHARS_MAX: usize = 120;

/// Rows under headings; the last column is not padded.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self {
            rows: vec![headings.iter().map(|heading| heading.to_uppercase()).collect()],
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let last = N - 1;
        let cells = cells.into_iter().enumerate();
        self.rows
            .push(cells.map(|(at, cell)| one_line(&cell, at < last)).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    pub(crate) fn print(&self, output: Output) {
        for line in self.lines() {
            output.data(line);
        }
    }

    fn lines(&self) -> Vec<String> {
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.rows[0].len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

/// A cell as it is shown: what would break the row or speak to the terminal is escaped, and what is too long is cut.
fn one_line(cell: &str, is_cut: bool) -> String {
    let mut shown = String::with_capacity(cell.len().min(4 * CELL_CHARS_MAX));
    for (at, character) in cell.chars().enumerate() {
        if is_cut && at == CELL_CHARS_MAX {
            shown.push('…');
            break;
        }
        match character {
            '\n' => shown.push_str("\\n"),
            // As `terminal_text` writes them; colours would break the alignment.
            _ if character.is_control() => {
                // Writing to a String can't fail.
                let _ = write!(shown, "\\x{:02x}", u32::from(character));
            }
            _ => shown.push(character),
        }
    }
    shown
}

/// How long ago: `12s`, `5m`, `3h`, `2d`.
pub(crate) fn age(at: Time) -> String {
    span(Time::now().since(at))
}

/// A length of time in its largest unit.
pub(crate) fn span(duration: Duration) -> String {
    let secs = duration.as_secs();
    match secs {
        0..60 => format!("{secs}s"),
        60..3_600 => format!("{}m", secs / 60),
        3_600..172_800 => format!("{}h", secs / 3_600),
        _ => format!("{}d", secs / 86_400),
    }
}

/// Something or a dash.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// The part of an id that tells it apart: UUIDv7 begin with the time, so the end.
pub(crate) fn short(id: &impl ToString) -> String {
    let text = id.to_string();
    text[text.len().saturating_sub(8)..].to_owned()
}

/// `1.4 MiB`
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..1_024 => format!("{count} B"),
        1_024..1_048_576 => format!("{:.1} KiB", count as f64 / 1_024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", count as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", count as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let mut table = Table::new(["name", "state"]);
        table.row(["a-long-name".into(), "up".into()]);
        table.row(["é".into(), String::new()]);
        assert_eq!(table.lines(), ["NAME         STATE", "a-long-name  up", "é"]);
    }

    #[test]
    fn a_cell_is_one_line_that_says_nothing_to_the_terminal() {
        let mut table = Table::new(["name", "value", "set"]);
        table.row(["BIG".into(), "a".repeat(70_000), "now".into()]);
        table.row(["ESC".into(), "a\u{1b}[31mb\nc".into(), "then".into()]);
        let lines = table.lines();
        assert_eq!(lines[1], format!("BIG   {}…  now", "a".repeat(CELL_CHARS_MAX)));
        assert!(lines[2].starts_with(r"ESC   a\x1b[31mb\nc "), "{}", lines[2]);
    }

    #[test]
    fn amounts_are_short() {
        assert_eq!(span(Duration::from_secs(59)), "59s");
        assert_eq!(span(Duration::from_secs(7_200)), "2h");
        assert_eq!((bytes(512), bytes(1_572_864)), ("512 B".into(), "1.5 MiB".into()));
    }
}
