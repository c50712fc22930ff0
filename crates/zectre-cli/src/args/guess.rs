//! Words that people bring from elsewhere: what does here what they ask for.

use clap::{
    Command,
    error::{Error, ErrorKind},
};
use std::ffi::{OsStr, OsString};

/// The one option before a command whose value is a word of its own.
const TAKES_VALUE: &str = "--api-url";

/// Words that name no command, and what does what they mean.
const ELSEWHERE: &[(&[&str], &str)] = &[
    (
        &["delete", "destroy", "rm", "remove", "uninstall", "undeploy"],
        "To delete a project with everything that runs of it: `zectre projects delete NAME`. Variables, environments and \
         domains have an `rm` of their own, as in `zectre env rm KEY`.",
    ),
    (
        &["stop", "pause", "halt", "kill", "suspend"],
        "To stop a program until its next request: `zectre sleep`. To stop the platform of this machine: `zectre down`.",
    ),
    (
        &["start", "resume", "serve", "server"],
        "To start a program that sleeps: `zectre wake`. To start the platform on this machine: `zectre up`.",
    ),
    (
        &["list", "ls", "apps", "app", "project"],
        "`zectre projects list` shows the projects, `zectre status` how one of them is, `zectre ps` what runs of it.",
    ),
    (
        &["info", "show", "inspect", "describe", "details"],
        "`zectre status` shows how a project is and where it answers, `zectre ps` what runs of it.",
    ),
    (
        &[
            "config",
            "configure",
            "set",
            "unset",
            "var",
            "vars",
            "variables",
            "secret",
            "secrets",
        ],
        "Variables: `zectre env list`, `zectre env add KEY=value` (with --secret it is never shown again), `zectre env rm KEY`. \
         How a program is run stands in zectre.yaml: `zectre schema` prints its keys.",
    ),
    (
        &["run", "job", "jobs", "task"],
        "`zectre deploy` runs what is in this directory. With `restart: never` in zectre.yaml it is a job, which runs to \
         completion at each `zectre deploy`; `zectre logs` shows what it printed.",
    ),
    (
        &["exec", "shell", "ssh", "console", "attach", "enter", "bash", "sh"],
        "Nothing can be run inside of a task. `zectre logs --follow` shows what the program prints; what is to run once is a \
         program of its own with `restart: never`, which `zectre deploy` runs.",
    ),
    (
        &[
            "releases",
            "release",
            "versions",
            "deployments",
            "deploys",
            "history",
        ],
        "`zectre status` shows a project's versions, `zectre events` what happened to it; `zectre rollback VERSION` goes back \
         to one of them.",
    ),
    (
        &["push", "publish", "ship", "launch", "redeploy", "update"],
        "`zectre deploy` builds and deploys what is in this directory; where there is nothing yet, `zectre init` writes a first \
         program.",
    ),
    (
        &["new", "create", "add"],
        "`zectre init` writes a first program here, and `zectre deploy` makes its project; `zectre projects create NAME` makes \
         one without.",
    ),
    (
        &["abort"],
        "`zectre cancel` gives up a rollout that is under way; Ctrl-C in `zectre deploy` cancels its build.",
    ),
    (
        &["log", "tail"],
        "`zectre logs` shows what the program printed; with --follow it goes on with new lines.",
    ),
    (
        &["image", "images", "container", "docker"],
        "`zectre deploy --image IMAGE` runs an image where a container engine answers.",
    ),
    (
        &["domain", "cert", "certs", "certificates", "tls", "ssl"],
        "`zectre domains add NAME` claims a name of your own for a project, `zectre domains list` shows how each is, with its \
         certificate.",
    ),
    (
        &["machine", "machines", "node", "host", "hosts", "servers"],
        "`zectre nodes list` shows the machines that run programs, `zectre nodes join` how to add one.",
    ),
    (
        &["auth", "signin", "signup", "register"],
        "`zectre login` signs in; an admin of the cluster makes accounts with `zectre users add EMAIL`.",
    ),
    (
        &["health", "check", "checks", "diagnose"],
        "`zectre doctor` checks this machine and the platform, `zectre status` shows how a project is.",
    ),
    (
        &["activity", "audit"],
        "`zectre events` shows what happened, with --follow what happens.",
    ),
    (&["version"], "`zectre --version` prints it."),
];

/// What the commands below others call one thing, each in a row.
const SAME: [&[&str]; 3] = [
    &["add", "create", "new", "make", "set", "invite"],
    &[
        "rm",
        "delete",
        "remove",
        "destroy",
        "revoke",
        "unset",
        "uninstall",
    ],
    &["list", "ls", "show", "get", "info"],
];

/// What to say of a command that isn't one, where it is known what is meant by it.
pub fn of(error: &Error, root: &Command, words: &[OsString]) -> Option<String> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let (command, path, word) = unknown(root, words)?;
    if path == root.get_name() {
        // Others write what belongs together with a colon, as in `config:set`.
        let topic = word.split(':').next().unwrap_or(&word);
        let (_, instead) = ELSEWHERE.iter().find(|(guesses, _)| guesses.contains(&topic))?;
        return Some(format!(
            "zectre has no `{word}`. {instead}\n`zectre --help` lists all commands."
        ));
    }
    let row = SAME.iter().find(|row| row.contains(&word.as_str()))?;
    let ours = row
        .iter()
        .find_map(|name| command.find_subcommand(name))?
        .get_name();
    Some(format!(
        "{path} has no `{word}`: here it is `{path} {ours}`. `{path} {ours} --help` tells its options."
    ))
}

/// The first word that names no command: below which one, with its path.
fn unknown<'c>(root: &'c Command, words: &[OsString]) -> Option<(&'c Command, String, String)> {
    let (mut command, mut path) = (root, root.get_name().to_owned());
    let mut words = words.iter().skip(1).map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        if word == TAKES_VALUE {
            words.next();
        } else if !word.starts_with('-') {
            let Some(next) = command.find_subcommand(word.as_ref()) else {
                return command
                    .has_subcommands()
                    .then(|| (command, path, word.into_owned()));
            };
            command = next;
            path = format!("{path} {}", next.get_name());
        }
    }
    None
}

/// Help that was asked for with a word before the command is the option behind it.
pub fn help(mut words: Vec<OsString>) -> Vec<OsString> {
    if words.get(1).is_some_and(|word| word == OsStr::new("help")) {
        words.remove(1);
        words.push("--help".into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;
    use clap::{CommandFactory, Parser};

    fn said(words: &str) -> Option<String> {
        let words: Vec<OsString> = words.split(' ').map(Into::into).collect();
        let error = Args::try_parse_from(&words).expect_err("it is no command");
        of(&error, &Args::command(), &words)
    }

    #[test]
    fn a_word_from_elsewhere_is_told_what_does_it_here() {
        for (words, says) in [
            ("zectre destroy shop --force", "`zectre projects delete NAME`"),
            (
                "zectre --json --api-url http://a:1 rm shop",
                "`zectre projects delete NAME`",
            ),
            ("zectre --api-url=http://a:1 stop", "`zectre sleep`"),
            ("zectre start", "`zectre up`"),
            ("zectre apps", "`zectre projects list`"),
            ("zectre config", "`zectre env list`"),
            ("zectre config:set A=1", "`zectre env add KEY=value`"),
            ("zectre exec shop sh", "inside of a task"),
            ("zectre releases", "`zectre rollback VERSION`"),
            (
                "zectre projects destroy shop",
                "here it is `zectre projects delete`",
            ),
            ("zectre env unset KEY", "here it is `zectre env rm`"),
            ("zectre tokens rm ci", "here it is `zectre tokens revoke`"),
            (
                "zectre catalog orgs new acme",
                "here it is `zectre catalog orgs create`",
            ),
        ] {
            let said = said(words).unwrap_or_else(|| panic!("{words}: nothing is said"));
            assert!(said.contains(says), "{words}: {said}");
        }
    }

    #[test]
    fn what_nobody_can_guess_is_left_to_the_grammar() {
        for words in [
            "zectre deploi",
            "zectre projects frobnicate",
            "zectre projects",
            "zectre deploy --now",
            "zectre status extra",
        ] {
            assert_eq!(said(words), None, "{words}");
        }
    }

    #[test]
    fn no_guess_stands_in_the_way_of_a_command_or_of_another_guess() {
        let root = Args::command();
        let mut all: Vec<&str> = ELSEWHERE.iter().flat_map(|(words, _)| *words).copied().collect();
        for word in &all {
            assert!(root.find_subcommand(word).is_none(), "{word} is a command");
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "each word stands there once");
    }

    #[test]
    fn help_is_an_option_whoever_writes_it_as_a_command() {
        let asked = |words: &str| {
            let words = help(words.split(' ').map(Into::into).collect());
            let error = Args::try_parse_from(words).expect_err("it is shown instead");
            assert_eq!(error.kind(), ErrorKind::DisplayHelp);
            error.to_string()
        };
        assert!(asked("zectre help").contains("Exit codes:"));
        assert!(asked("zectre help projects delete").contains("Usage: zectre projects delete"));
    }
}
