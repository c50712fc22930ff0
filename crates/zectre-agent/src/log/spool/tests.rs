use super::*;
use proptest::prelude::*;
use std::{collections::BTreeMap, fs::OpenOptions, io::Write};
use zectre_common::wire::log::AppendLogsRequest;

const NOW: fn() -> Time = || Time::from_unix_ms(1_000);
const WIDE: Bounds = Bounds {
    bytes_max: 1 << 20,
    lines_per_sec: 0,
};
const NARROW: Bounds = Bounds {
    bytes_max: 16 << 10,
    ..WIDE
};

fn write(dir: &Path, name: &str, text: &str) {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join(name))
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .expect("written");
}

fn open(dir: &Path, bounds: Bounds) -> (Spool, Vec<LogLine>) {
    Spool::open(dir, bounds).expect("opened")
}

fn pump(spool: &mut Spool, last: bool) -> Vec<LogLine> {
    spool.pump(NOW(), last, true).expect("pumped").lines
}

/// As the API reads them.
fn lines(batch: &Batch) -> Vec<LogLine> {
    let json = serde_json::to_vec(batch).expect("text and numbers");
    let request: AppendLogsRequest = serde_json::from_slice(&json).expect("the wire's form");
    assert_eq!(request.lines.len() as u64, batch.len());
    request.lines
}

fn next(spool: &mut Spool) -> Batch {
    spool.batch().expect("read").expect("lines")
}

fn texts(lines: &[LogLine]) -> Vec<(u64, &str)> {
    lines
        .iter()
        .map(|line| (line.seq, line.message.as_str()))
        .collect()
}

#[test]
fn lines_are_numbered_once_also_across_a_crash() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut spool, tail) = open(dir.path(), WIDE);
    assert!(tail.is_empty() && spool.batch().expect("read").is_none());
    write(dir.path(), STDOUT_FILE, "one\ntwo\nthr");
    assert_eq!(texts(&pump(&mut spool, false)), [(1, "one"), (2, "two")]);
    write(dir.path(), STDERR_FILE, "oops\n");
    assert_eq!(texts(&pump(&mut spool, false)), [(3, "oops")]);
    let shipped = lines(&next(&mut spool));
    drop(spool);

    // A crash after the batch went out and before it was acknowledged: the very same lines again.
    let (mut spool, tail) = open(dir.path(), WIDE);
    assert_eq!(tail, shipped);
    let again = next(&mut spool);
    assert_eq!(lines(&again), shipped);
    write(dir.path(), STDOUT_FILE, "ee\nlast");
    assert_eq!(texts(&pump(&mut spool, false)), [(4, "three")]);
    spool.acknowledge(&again).expect("acknowledged");
    drop(spool);

    let (mut spool, _) = open(dir.path(), WIDE);
    assert_eq!(texts(&lines(&next(&mut spool))), [(4, "three")]);
    assert_eq!(texts(&pump(&mut spool, true)), [(5, "last")]);
    spool.give_back();
    let rest = next(&mut spool);
    spool.acknowledge(&rest).expect("acknowledged");
    assert!(spool.batch().expect("read").is_none() && !spool.has_unshipped());
    drop(spool);

    // Everything shipped: the numbers go on.
    let (mut spool, _) = open(dir.path(), WIDE);
    write(dir.path(), STDOUT_FILE, "\nmore\n");
    assert_eq!(texts(&pump(&mut spool, false)), [(6, ""), (7, "more")]);
}

#[test]
fn a_torn_entry_is_numbered_again() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), STDOUT_FILE, "one\n");
    let (mut spool, _) = open(dir.path(), WIDE);
    pump(&mut spool, false);
    write(dir.path(), STDOUT_FILE, "two\n");
    pump(&mut spool, false);
    let path = dir.path().join(JOURNAL_FILE);
    let journal = OpenOptions::new().write(true).open(&path).expect("opened");
    journal
        .set_len(journal.metadata().expect("there").len() - 3)
        .expect("torn");
    let (mut spool, tail) = open(dir.path(), WIDE);
    assert_eq!(texts(&tail), [(1, "one")]);
    assert_eq!(texts(&pump(&mut spool, false)), [(2, "two")]);
}

#[test]
fn what_can_not_be_kept_is_dropped_and_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut spool, _) = open(dir.path(), NARROW);
    write(dir.path(), STDOUT_FILE, "first\n");
    pump(&mut spool, false);
    let under_way = next(&mut spool);
    for index in 0..500 {
        write(dir.path(), STDOUT_FILE, &format!("line {index}\n"));
        pump(&mut spool, false);
    }
    assert!(spool.take_dropped() > 0);
    spool.acknowledge(&under_way).expect("acknowledged");
    let (mut spool, _) = open(dir.path(), NARROW);
    let batch = next(&mut spool);
    let got = lines(&batch);
    let (notice, first) = (&got[0], &got[1]);
    let lost = first.seq - 2;
    assert_eq!(notice.stream, Stream::System);
    assert_eq!(
        (notice.message.as_str(), notice.seq),
        (
            &*format!("{lost} lines dropped here: they could not be shipped in time"),
            first.seq - 1
        )
    );
    assert_eq!(first.message, format!("line {lost}"));
    assert_eq!(got.last().expect("lines").message, "line 499");
    spool.acknowledge(&batch).expect("acknowledged");
    assert!(spool.batch().expect("read").is_none());
    assert_eq!(spool.kept_bytes, 0, "all of it is accounted for");
}

#[test]
fn lines_beyond_the_rate_are_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let bounds = Bounds {
        lines_per_sec: 10,
        ..WIDE
    };
    let (mut spool, _) = open(dir.path(), bounds);
    write(dir.path(), STDOUT_FILE, &"x\n".repeat(1_000));
    let got = pump(&mut spool, false);
    let passed = got.len() as u64 - 1;
    assert!((50..60).contains(&passed), "a burst of five seconds: {passed}");
    let said = format!(
        "{} lines dropped: the task wrote more than agent.log_lines_per_sec_max (10)",
        1_000 - passed
    );
    assert_eq!(got.last().map(|line| line.message.as_str()), Some(&*said));
    // Told once a second at most, and never forgotten: neither by a crash nor at the end.
    write(dir.path(), STDOUT_FILE, &"y\n".repeat(200));
    assert!(pump(&mut spool, false).is_empty() && spool.has_untold());
    drop(spool);
    let (mut spool, _) = open(dir.path(), bounds);
    assert!(spool.has_untold());
    let got = pump(&mut spool, true);
    assert!(got[0].message.starts_with("200 lines dropped"), "{got:?}");
    assert!(!spool.has_untold());
    let all = lines(&next(&mut spool));
    assert!(all.iter().map(|line| line.seq).eq(1..=passed + 2), "no gap");
}

#[test]
fn a_flood_is_passed_over_and_a_stretched_file_is_not_read() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), STDOUT_FILE, &"0123456789\n".repeat(10_000));
    let (mut spool, _) = open(dir.path(), NARROW);
    let mut got = Vec::new();
    loop {
        let pumped = spool.pump(NOW(), false, true).expect("pumped");
        got.extend(pumped.lines);
        if !pumped.more {
            break;
        }
    }
    assert!(
        got.iter()
            .any(|line| line.message.starts_with("10000 lines dropped")),
        "{got:?}"
    );
    let file = OpenOptions::new()
        .write(true)
        .open(dir.path().join(STDOUT_FILE))
        .expect("opened");
    file.set_len(1 << 40).expect("a sparse file");
    write(dir.path(), STDERR_FILE, "still here\n");
    let got = pump(&mut spool, false);
    assert!(got.iter().any(|line| line.message == "still here"), "{got:?}");
    assert!(
        got.iter()
            .any(|line| line.message.ends_with("bytes of stdout dropped")),
        "{got:?}"
    );
}

#[test]
fn shipped_text_gives_its_room_back() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().expect("a directory");
    let (mut spool, _) = open(dir.path(), WIDE);
    for _ in 0..20 {
        write(
            dir.path(),
            STDOUT_FILE,
            &format!("{}\n", "x".repeat(1_023)).repeat(64),
        );
        pump(&mut spool, false);
        while let Some(batch) = spool.batch().expect("read") {
            spool.acknowledge(&batch).expect("acknowledged");
        }
    }
    let metadata = std::fs::metadata(dir.path().join(STDOUT_FILE)).expect("there");
    assert_eq!(metadata.len(), 20 * 64 * 1_024);
    assert!(
        metadata.blocks() * 512 <= 128 << 10,
        "{} blocks",
        metadata.blocks()
    );
}

/// One thing that happens to a spool.
#[derive(Debug, Clone)]
enum Step {
    Write(bool, Vec<u8>),
    Pump,
    Send,
    Stored,
    Lost,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (any::<bool>(), proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), any::<u8>()], 0..40))
            .prop_map(|(err, bytes)| Step::Write(err, bytes)),
        3 => Just(Step::Pump),
        2 => Just(Step::Send),
        2 => Just(Step::Stored),
        1 => Just(Step::Lost),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever happens in whatever order: the API ends with every line of each stream once, in order, and
    /// a number never means two lines.
    #[test]
    fn every_line_is_stored_once(steps in proptest::collection::vec(step(), 0..60)) {
        let dir = tempfile::tempdir().expect("a directory");
        let mut spool = open(dir.path(), WIDE).0;
        let (mut written, mut stored) = ([Vec::new(), Vec::new()], BTreeMap::<u64, LogLine>::new());
        let mut flight: Option<Batch> = None;
        let mut store = |batch: &Batch| {
            for line in lines(batch) {
                let before = stored.insert(line.seq, line.clone());
                assert!(before.is_none_or(|before| before == line), "a number means two lines: {line:?}");
            }
        };
        for step in steps {
            match step {
                Step::Write(err, bytes) => {

                    let name = [STDOUT_FILE, STDERR_FILE][usize::from(err)];
                    written[usize::from(err)].extend_from_slice(&bytes);
                    OpenOptions::new().create(true).append(true).open(dir.path().join(name))
                        .and_then(|mut file| file.write_all(&bytes))
                        .expect("written");
                }
                Step::Pump => drop(pump(&mut spool, false)),
                Step::Send if flight.is_none() => flight = spool.batch().expect("read"),
                // Stored, whether or not the answer arrives.
                Step::Stored => if let Some(batch) = flight.take() {
                    store(&batch);
                    spool.acknowledge(&batch).expect("acknowledged");
                },
                Step::Lost => if let Some(batch) = flight.take() {
                    store(&batch);
                    spool.give_back();
                },
                Step::Crash => {
                    flight = None;
                    spool = open(dir.path(), WIDE).0;
                }
                Step::Send => {}
            }
        }
        spool.give_back();
        pump(&mut spool, true);
        while let Some(batch) = spool.batch().expect("read") {
            store(&batch);
            spool.acknowledge(&batch).expect("acknowledged");
        }
        prop_assert_eq!(spool.kept_bytes, 0);
        prop_assert!(stored.keys().copied().eq(1..=stored.len() as u64), "numbers without gap");
        for (index, stream) in STREAMS.into_iter().enumerate() {
            let mut wanted = Vec::new();
            let mut rest = written[index].as_slice();
            while let Some(cut) = line::first(rest, true) {
                wanted.push(cut.text(rest).into_owned());
                rest = &rest[cut.raw_bytes..];
            }
            let got: Vec<_> = stored.values().filter(|line| line.stream == stream).map(|line| line.message.clone()).collect();
            prop_assert_eq!(got, wanted);
        }
    }
}

#[test]
fn holes_are_not_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut spool, _) = open(dir.path(), WIDE);
    write(dir.path(), STDOUT_FILE, "one\n");
    let file = OpenOptions::new()
        .write(true)
        .open(dir.path().join(STDOUT_FILE))
        .expect("there");
    assert_eq!(texts(&pump(&mut spool, false)), [(1, "one")]);
    // Not so long that its length alone gives it away.
    file.set_len(WIDE.bytes_max * 8).expect("stretched");
    write(dir.path(), STDOUT_FILE, "two\n");
    let (mut lines, mut looks) = (Vec::new(), 0);
    loop {
        let pumped = spool.pump(NOW(), true, true).expect("pumped");
        lines.extend(pumped.lines);
        looks += 1;
        if !pumped.more {
            break;
        }
    }
    let said: Vec<_> = lines.iter().map(|line| line.message.as_str()).collect();
    assert_eq!(said.last(), Some(&"two"), "{said:?}");
    assert!(
        said.iter().any(|text| text.ends_with("bytes of stdout dropped")),
        "{said:?}"
    );
    // Each look reads `READ_BYTES` at most.
    assert!(looks <= 3, "{looks} looks");
}

#[test]
fn surplus_keeps_its_text_until_its_loss_is_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut spool, _) = open(dir.path(), NARROW);
    let mut written = 0;
    // In parts, so that none of it comes faster than it is read; the last one is more than is kept.
    let obstacle = dir.path().join(format!("{STATE_FILE}.new"));
    std::fs::create_dir(&obstacle).expect("made");
    let refused = (0..100).any(|_| {
        for _ in 0..20 {
            written += 1;
            write(dir.path(), STDOUT_FILE, &format!("{written:0>100}\n"));
        }
        spool.pump(NOW(), false, false).is_err()
    });
    assert!(refused, "its loss can't be kept");
    // As if it was killed there.
    drop(spool);
    std::fs::remove_dir(&obstacle).expect("removed");
    let (mut spool, _) = open(dir.path(), NARROW);
    let mut shipped = Vec::new();
    while let Some(batch) = spool.batch().expect("read") {
        shipped.extend(lines(&batch));
        spool.acknowledge(&batch).expect("acknowledged");
    }
    assert!(!shipped.is_empty());
    for line in shipped {
        assert_eq!(line.message.trim_start_matches('0'), line.seq.to_string());
    }
}
