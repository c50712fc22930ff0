//! Every command that a message or a page tells people to run is one.

use super::Args;
use clap::{Command, CommandFactory};
use std::{fs, path::Path};

#[test]
fn every_command_that_is_named_is_there() {
    let mut command = Args::command();
    command.build();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (mut files, mut named) = (Vec::new(), 0);
    for place in ["crates/zectre-cli/src", "docs"] {
        collect(&root.join(place), &mut files);
    }
    for file in files {
        let text = fs::read_to_string(&file).expect("a text");
        for words in commands_in(&text) {
            named += 1;
            if let Some(wrong) = mistake(&command, &words) {
                panic!("{} names `zectre {words}`: {wrong}", file.display());
            }
        }
    }
    assert!(named > 100, "they are found: {named}");
}

#[test]
fn a_command_that_is_none_is_noticed() {
    let mut command = Args::command();
    command.build();
    for wrong in [
        "artifacts list",
        "deply",
        "deploy --now",
        "nodes list all",
        "status -x",
    ] {
        assert!(mistake(&command, wrong).is_some(), "{wrong}");
    }
    for right in [
        "deploy{}",
        "nodes …",
        "logs -f",
        "events | head",
        "promote 3 --prod --json",
        "users list|add",
    ] {
        assert_eq!(mistake(&command, right), None, "{right}");
    }
}

fn collect(path: &Path, files: &mut Vec<std::path::PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("readable") {
            collect(&entry.expect("readable").path(), files);
        }
    } else if path.extension().is_some_and(|end| end == "rs" || end == "md") && !path.ends_with("named.rs") {
        files.push(path.to_owned());
    }
}

/// What stands between backticks after the program's name; a text that goes on in the next line is one text.
fn commands_in(text: &str) -> Vec<String> {
    let joined: Vec<_> = text
        .lines()
        .map(|line| {
            line.trim()
                .trim_start_matches("///")
                .trim_start_matches("//!")
                .trim_end_matches('\\')
        })
        .collect();
    let joined = joined.join(" ");
    let parts = joined.split("`zectre ").skip(1);
    parts
        .filter_map(|rest| rest.split_once('`').map(|(words, _)| words.to_owned()))
        .collect()
}

fn mistake(root: &Command, words: &str) -> Option<String> {
    let mut command = root;
    let mut takes_value = false;
    // What another program does with its output is that one's.
    for word in words.split_whitespace().take_while(|word| *word != "|") {
        // What follows is put in, or left out.
        let cut = word.find(['{', '…', '|']);
        let word = &word[..cut.unwrap_or(word.len())];
        let is_name = word.starts_with(|c: char| c.is_ascii_lowercase());
        if command.has_subcommands() {
            match command.find_subcommand(word) {
                Some(found) => command = found,
                None if is_name && cut.is_none() => return Some(format!("there is no `{word}`")),
                None => return None,
            }
        } else if let Some(flag) = word.strip_prefix('-') {
            let found = command.get_arguments().find(|one| match flag.strip_prefix('-') {
                Some(long) => one.get_long() == Some(long),
                None => one.get_short() == flag.chars().next(),
            });
            let Some(found) = found else {
                return Some(format!("it has no `{word}`"));
            };
            takes_value = found.get_action().takes_values();
            continue;
        } else if !word.is_empty() && !takes_value && command.get_positionals().next().is_none() {
            return Some(format!("it takes no `{word}`"));
        }
        takes_value = false;
    }
    None
}
