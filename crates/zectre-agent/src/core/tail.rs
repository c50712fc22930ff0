//! The last lines that go with a report: few enough bytes that no number of failing tasks makes a message that nobody takes.

use zectre_common::wire::{agent::TaskReport, log::LogLine};

/// What the last lines of one report may take in JSON. Twenty lines of a stack trace fit.
const REPORT_BYTES_MAX: usize = 8 << 10;
/// One line's share, so that one long line leaves room for what stands before it.
const LINE_BYTES_MAX: usize = 2 << 10;
/// What the last lines of all reports of a message may take: a quarter of what the scheduler takes at once.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Stands where a line was cut.
const CUT: char = '…';

/// The last of these lines that fit, the long ones cut.
pub fn bounded(lines: Vec<LogLine>) -> Vec<LogLine> {
    let mut left = REPORT_BYTES_MAX;
    let mut kept: Vec<LogLine> = lines
        .into_iter()
        .rev()
        .map_while(|mut line| {
            line.message = cut(line.message);
            left = left.checked_sub(json_bytes(&line.message))?;
            Some(line)
        })
        .collect();
    kept.reverse();
    kept
}

/// Leaves the last lines out of the reports that are over what one message may carry.
pub fn lighten(reports: &mut [TaskReport]) {
    let mut left = MESSAGE_BYTES_MAX;
    for report in reports {
        let bytes = report.log_tail.iter().map(|line| json_bytes(&line.message)).sum();
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => report.log_tail.clear(),
        }
    }
}

fn cut(message: String) -> String {
    let mut bytes = 0;
    let end = message.char_indices().find_map(|(at, character)| {
        bytes += escaped_bytes(character);
        (bytes > LINE_BYTES_MAX - CUT.len_utf8()).then_some(at)
    });
    match end {
        Some(end) if json_bytes(&message) > LINE_BYTES_MAX => format!("{}{CUT}", &message[..end]),
        _ => message,
    }
}

fn json_bytes(text: &str) -> usize {
    text.chars().map(escaped_bytes).sum()
}

/// At most what a character takes in JSON.
fn escaped_bytes(character: char) -> usize {
    match character {
        '"' | '\\' => 2,
        character if character.is_control() => 6,
        character => character.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zectre_common::{id::TaskId, time::Time, wire::log::Stream};

    fn line(seq: u64, message: String) -> LogLine {
        LogLine {
            seq,
            time: Time::from_unix_ms(0),
            stream: Stream::Stdout,
            message,
        }
    }

    #[test]
    fn the_last_lines_are_kept_whole_where_they_are_short() {
        let lines: Vec<LogLine> = (1..=20).map(|seq| line(seq, format!("line {seq}"))).collect();
        assert_eq!(bounded(lines.clone()), lines);
    }

    #[test]
    fn a_long_line_leaves_room_for_those_before_it() {
        let kept = bounded(vec![
            line(1, "why".into()),
            line(2, "\u{1b}".repeat(16 << 10)),
            line(3, "end".into()),
        ]);
        assert_eq!(kept.len(), 3);
        assert!(kept[1].message.ends_with(CUT), "{:?}", kept[1]);
    }

    #[test]
    fn a_message_of_many_failures_stays_small() {
        let failed = serde_json::json!({
            "task_id": TaskId::new(), "generation": 1, "state": "failed", "healthy": false, "since": Time::from_unix_ms(0),
        });
        let mut failed: TaskReport = serde_json::from_value(failed).expect("a report");
        failed.log_tail = bounded((1..=20).map(|seq| line(seq, "\u{1b}".repeat(16 << 10))).collect());
        let mut reports = vec![failed; 2_000];
        lighten(&mut reports);
        let bytes = serde_json::to_vec(&reports).expect("it is JSON").len();
        assert!(bytes < 8 << 20, "{bytes}");
        assert!(!reports[0].log_tail.is_empty() && reports[1_999].log_tail.is_empty());
    }

    /// Lines of up to 16 KiB of what takes one, two, three, four or six bytes.
    fn message() -> impl Strategy<Value = String> {
        ("[a\"\u{1b}ä…\u{1f600}]{0,8}", 0..400_usize).prop_map(|(text, times)| text.repeat(times))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_kept_fits(messages in prop::collection::vec(message(), 0..21)) {
            let lines = messages.iter().enumerate().map(|(at, text)| line(at as u64 + 1, text.clone())).collect();
            let kept = bounded(lines);
            let bytes: usize = kept.iter().map(|line| json_bytes(&line.message)).sum();
            prop_assert!(bytes <= REPORT_BYTES_MAX);
            prop_assert_eq!(kept.is_empty(), messages.is_empty(), "the last line always fits");
            for line in &kept {
                let whole = &messages[line.seq as usize - 1];
                prop_assert!(&line.message == whole || whole.starts_with(line.message.trim_end_matches(CUT)));
                let json = serde_json::to_string(&line.message).expect("it is JSON");
                prop_assert!(json.len() - 2 <= json_bytes(&line.message));
            }
        }
    }
}
