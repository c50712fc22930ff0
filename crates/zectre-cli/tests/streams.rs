//! The program at the ends of pipes: what it says, where, and how it ends, whoever reads or has stopped reading.

use std::{
    fs::{File, OpenOptions},
    process::{Command, Output, Stdio},
};

/// The program with a home of its own, and an API that nobody has.
fn zectre(arguments: &[&str]) -> (Command, tempfile::TempDir) {
    let home = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_zectre"));
    command
        .args(arguments)
        .current_dir(home.path())
        .env_clear()
        .env("HOME", home.path())
        .stdin(Stdio::null());
    (command, home)
}

fn run(arguments: &[&str]) -> Output {
    let (mut command, _home) = zectre(arguments);
    command.output().expect("it was built")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The end of a pipe whose reader has gone.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

#[test]
fn a_word_from_elsewhere_is_a_wrong_use_that_says_the_right_one() {
    let guessed = run(&["destroy", "shop", "--json"]);
    assert_eq!(guessed.status.code(), Some(2));
    assert!(guessed.stdout.is_empty());
    let said = stderr(&guessed);
    assert!(
        said.starts_with("error: zectre has no `destroy`.") && said.contains("`zectre projects delete NAME`"),
        "{said}"
    );
    let unknown = run(&["frobnicate"]);
    assert_eq!(unknown.status.code(), Some(2), "{}", stderr(&unknown));
    let help = run(&["help", "deploy"]);
    assert_eq!(help.status.code(), Some(0), "{}", stderr(&help));
    assert!(String::from_utf8_lossy(&help.stdout).contains("Usage: zectre deploy"));
}

/// As in a unit of systemd that names no user.
#[test]
fn without_home_the_home_of_the_account_is_meant() {
    let (mut command, _home) = zectre(&["whoami", "--api-url", "http://127.0.0.1:1"]);
    let output = command.env_remove("HOME").output().expect("it was built");
    let said = stderr(&output);
    assert!(!said.contains("HOME"), "{said}");
    // Not signed in, or no answer: what lies there is this account's own.
    assert!(matches!(output.status.code(), Some(3 | 5)), "{said}");
}

#[test]
fn a_reader_that_leaves_ends_the_program_in_peace() {
    let (mut command, _home) = zectre(&["schema"]);
    let output = command
        .stdout(unread())
        .stderr(Stdio::piped())
        .output()
        .expect("it ran");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

#[test]
fn an_error_that_nobody_reads_keeps_its_exit_code() {
    for (arguments, code) in [
        (&["destroy"][..], 2),
        (&["frobnicate"], 2),
        (&["init", "NO NAME"], 2),
        (&["env", "add", "KEY"], 2),
    ] {
        let (mut command, _home) = zectre(arguments);
        let status = command
            .stderr(unread())
            .stdout(unread())
            .status()
            .expect("it ran");
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn a_full_disk_is_a_failure_and_no_reader_that_left() {
    let (mut command, _home) = zectre(&["schema"]);
    let full: File = OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("Linux has it");
    let output = command
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .expect("it ran");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("error: standard output can't be written"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_the_doctor_found_is_its_exit_code_however_much_was_read() {
    // Nobody listens at port 1, so at least that check fails.
    let (mut command, _home) = zectre(&["doctor", "--api-url", "http://127.0.0.1:1"]);
    let status = command
        .stdout(unread())
        .stderr(Stdio::null())
        .status()
        .expect("it ran");
    assert_eq!(status.code(), Some(1));
}

#[test]
fn an_artifact_is_looked_at_before_a_project_is_made_for_it() {
    let (mut command, home) = zectre(&[
        "deploy",
        "--artifact",
        "server",
        "--api-url",
        "http://127.0.0.1:1",
    ]);
    std::fs::write(home.path().join("zectre.yaml"), "name: shop\n").expect("written");
    command.env("ZECTRE_API_KEY", "zk_nobody");
    for (content, says) in [
        (None, "is not there"),
        (Some(""), "is empty"),
        (Some("text"), "is neither a program"),
    ] {
        if let Some(content) = content {
            std::fs::write(home.path().join("server"), content).expect("written");
        }
        let output = command.output().expect("it was built");
        let said = stderr(&output);
        assert!(
            said.starts_with("error: server ") && said.contains(says),
            "{said}"
        );
        assert_eq!(output.status.code(), Some(2), "{said}");
    }
}
