//! Planted secrets, looked for in whatever form they may have been written down.

use crate::process;
use aho_corasick::AhoCorasick;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

/// The secrets by what they are.
#[derive(Debug, Clone)]
pub struct Needles {
    automaton: Arc<AhoCorasick>,
    /// Of each pattern: which secret, in which form.
    names: Arc<Vec<String>>,
}

impl Needles {
    /// Of these secrets, each with its name.
    pub fn new(secrets: &BTreeMap<&'static str, String>) -> Self {
        let (mut patterns, mut names) = (Vec::new(), Vec::new());
        for (name, secret) in secrets {
            assert!(secret.len() >= 16, "{name} is too short to be told from chance");
            for (form, pattern) in forms(secret) {
                patterns.push(pattern);
                names.push(format!("{name} ({form})"));
            }
        }
        Self {
            automaton: Arc::new(AhoCorasick::new(&patterns).expect("a few short patterns")),
            names: Arc::new(names),
        }
    }

    /// Which of them are in there.
    pub fn in_bytes(&self, haystack: &[u8]) -> BTreeSet<String> {
        let found = self.automaton.find_overlapping_iter(haystack);
        found
            .map(|hit| self.names[hit.pattern().as_usize()].clone())
            .collect()
    }

    /// Which of them are in the files below, links not followed; by the file.
    pub fn in_files(
        &self,
        directory: &Path,
        skip: &dyn Fn(&Path) -> bool,
    ) -> Vec<(String, BTreeSet<String>)> {
        let mut found = Vec::new();
        // What is deleted meanwhile is gone.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if skip(&path) {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => found.extend(self.in_files(&path, skip)),
                Ok(kind) if kind.is_file() => {
                    let hits = self.in_bytes(&fs::read(&path).unwrap_or_default());
                    if !hits.is_empty() {
                        found.push((path.display().to_string(), hits));
                    }
                }
                _ => {}
            }
        }
        found
    }
}

/// The secret as it is, and in the forms that programs write things in.
fn forms(secret: &str) -> Vec<(String, Vec<u8>)> {
    let hex = |upper: bool| {
        secret.bytes().fold(String::new(), |mut text, byte| {
            let _ = if upper {
                write!(text, "{byte:02X}")
            } else {
                write!(text, "{byte:02x}")
            };
            text
        })
    };
    let url = secret.bytes().fold(String::new(), |mut text, byte| {
        let _ = if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            write!(text, "{}", byte as char)
        } else {
            write!(text, "%{byte:02X}")
        };
        text
    });
    let mut forms = vec![
        ("raw".to_owned(), secret.to_owned()),
        ("hex".into(), hex(false)),
        ("HEX".into(), hex(true)),
        ("URL-encoded".into(), url.clone()),
        ("url-encoded".into(), url.to_lowercase()),
        (
            "JSON".into(),
            serde_json::Value::from(secret)
                .to_string()
                .trim_matches('"')
                .to_owned(),
        ),
        (
            "bytes".into(),
            format!("{:?}", secret.as_bytes())
                .trim_matches(['[', ']'])
                .to_owned(),
        ),
    ];
    // Whatever else is escaped, this isn't.
    let plain = secret.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let longest = plain.max_by_key(|part| part.len()).unwrap_or_default();
    if longest.len() >= 16 {
        forms.push(("in part".into(), longest.to_owned()));
    }
    for offset in 0..3 {
        // Within a longer text: only the characters that the neighbours have no part in.
        let shifted = [&vec![0; offset][..], secret.as_bytes()].concat();
        let whole = shifted.len() / 3 * 4;
        let begin = if offset == 0 { 0 } else { 4 };
        forms.push((
            format!("base64+{offset}"),
            STANDARD.encode(&shifted)[begin..whole].to_owned(),
        ));
        forms.push((
            format!("base64url+{offset}"),
            URL_SAFE.encode(&shifted)[begin..whole].to_owned(),
        ));
    }
    forms
        .into_iter()
        .map(|(form, text)| (form, text.into_bytes()))
        .collect()
}

/// Looks at all processes of the machine, again and again: who has a secret on its command line or in its environment.
pub struct ProcessWatch {
    stop: Arc<AtomicBool>,
    watching: Option<JoinHandle<Seen>>,
}

/// What processes had.
#[derive(Debug, Default)]
pub struct Seen {
    /// What they may have: the secret's name and form.
    pub rightly: BTreeSet<String>,
    /// What they may not have, and where it was.
    pub wrongly: BTreeSet<String>,
}

/// Few processes live for less than a few times this.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

impl ProcessWatch {
    /// Begins; `may_have` is told a process's command line, its environment and a secret's name and form.
    pub fn begin(needles: Needles, may_have: fn(&str, &str, &str) -> bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let watching = std::thread::spawn(move || {
            let mut found = Seen::default();
            while !stopped.load(Relaxed) {
                for pid in process::all() {
                    look(pid, &needles, may_have, &mut found);
                }
                std::thread::park_timeout(LOOK_INTERVAL);
            }
            found
        });
        Self {
            stop,
            watching: Some(watching),
        }
    }

    /// Ends; what was seen.
    pub fn end(mut self) -> Seen {
        self.stop.store(true, Relaxed);
        let watching = self.watching.take().expect("it is ended once");
        watching.thread().unpark();
        watching.join().expect("looking does not fail")
    }
}

impl Drop for ProcessWatch {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn look(pid: i32, needles: &Needles, may_have: fn(&str, &str, &str) -> bool, found: &mut Seen) {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let (command, environment) = (read("cmdline"), read("environ"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\0', " ");
    for hit in needles.in_bytes(&command) {
        found
            .wrongly
            .insert(format!("{hit} on the command line `{}`", text(&command)));
    }
    for hit in needles.in_bytes(&environment) {
        if may_have(&text(&command), &text(&environment), &hit) {
            found.rightly.insert(hit);
        } else {
            found
                .wrongly
                .insert(format!("{hit} in the environment of `{}`", text(&command)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_every_form_within_longer_texts() {
        let needles = Needles::new(&BTreeMap::from([("it", "a \"secret\" of 20+/=".to_owned())]));
        let secret = "a \"secret\" of 20+/=";
        let bytes = |text: String| text.into_bytes();
        let json = serde_json::json!({"before": 1, "it": secret}).to_string();
        let hex = zectre_service::key::to_hex(secret.as_bytes());
        let mut texts = vec![
            bytes(format!("x{secret}y")),
            bytes(json),
            bytes(format!("\\x{hex}00")),
            bytes("https://h/?q=a%20%22secret%22%20of%2020%2B%2F%3D&r".into()),
            bytes(format!("{:?}", [b"x", secret.as_bytes(), b"y"].concat())),
        ];
        for before in ["", "u", "us", "user:", "user:x"] {
            texts.push(bytes(STANDARD.encode(format!("{before}{secret}-after"))));
            texts.push(bytes(URL_SAFE.encode(format!("{before}{secret}"))));
        }
        for text in texts {
            let found = needles.in_bytes(&text);
            assert!(!found.is_empty(), "{}", String::from_utf8_lossy(&text));
        }
        assert!(needles.in_bytes(b"a secret of nobody").is_empty());
    }
}
