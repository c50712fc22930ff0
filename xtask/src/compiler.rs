//! Stands in for `rustc` where every check is run: each of our crates is linted, compiled and documented in one go.
//!
//! `cargo clippy` and `cargo doc` only look at what they need of the libraries of others, and what they looked at is of no
//! use to `cargo build`: with them, every library is worked on twice, a tenth of the time of the whole run. But both can read
//! what a build has compiled.

use crate::{fail::Fail, run, tidy::targets};
use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// What cargo puts in front of a compiler's arguments (`RUSTC_WORKSPACE_WRAPPER`): the path of `rustc`.
pub(crate) fn is_called(arguments: &[String]) -> bool {
    // Debian's older ones are called `rustc-1.89` and the like.
    let name = arguments
        .first()
        .and_then(|first| Path::new(first).file_name()?.to_str());
    name.is_some_and(|name| name == "rustc" || name.starts_with("rustc-"))
}

/// The options whose value is a word of its own and matters to rustdoc.
const SHARED: [&str; 7] = [
    "--crate-name",
    "--crate-type",
    "--cfg",
    "--check-cfg",
    "--extern",
    "--target",
    "-L",
];
/// Those whose value matters to the compiler only.
const COMPILED: [&str; 3] = ["-C", "--out-dir", "-o"];

/// This program, ready to be called by cargo.
pub(crate) struct Compiler(PathBuf);

impl Compiler {
    /// Copies this program, which is built anew along with everything else, to where it stays what it is. To be called before
    /// anything is built.
    pub(crate) fn prepare() -> Result<Self, Fail> {
        let program = run::target_dir().join(name());
        let fail =
            |error: std::io::Error| Fail::new(format!("{} can't be written: {error}", program.display()));
        let this = env::current_exe().map_err(fail)?;
        if fs::read(&program).ok() != Some(fs::read(&this).map_err(fail)?) {
            let fresh = program.with_extension("new");
            fs::copy(&this, &fresh).map_err(fail)?;
            fs::rename(&fresh, &program).map_err(fail)?;
        }
        Ok(Self(program))
    }

    /// `cargo`, with it as the compiler of what is ours.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = run::cargo_once();
        cargo.env("RUSTC_WORKSPACE_WRAPPER", &self.0);
        cargo
    }

    /// The same for what is built a second time, with features that are not on otherwise. No build of its libraries' own tests
    /// follows, so they are linted as they are; they are documented already.
    pub(crate) fn cargo_again(&self) -> Command {
        let mut cargo = self.cargo();
        cargo.env(AGAIN, "yes");
        cargo
    }
}

/// Says that it is built a second time, and not with its own tests.
const AGAIN: &str = "CHECKING_RUSTC_AGAIN";

/// What a target belongs to.
struct Package {
    manifest: String,
    has_library: bool,
}

impl Package {
    /// The one whose target cargo has compiled.
    fn of_environment() -> Self {
        let home = env::var_os("CARGO_MANIFEST_DIR")
            .map(PathBuf::from)
            .unwrap_or_default();
        Self {
            manifest: fs::read_to_string(home.join("Cargo.toml")).unwrap_or_default(),
            has_library: home.join("src/lib.rs").is_file(),
        }
    }

    /// Whether this target is built a second time, with its tests: that is all of it and more, and is what is linted.
    fn tests(&self, source: &str) -> bool {
        let is_tested_at_all = source.contains("src/") && !source.ends_with("build.rs");
        is_tested_at_all && !targets::untested(&self.manifest).any(|(_, path)| source.ends_with(path))
    }

    /// Whether there is something to read: a program beside a library only hands over to it.
    fn documents(&self, source: &str) -> bool {
        !self.has_library || source.ends_with("src/lib.rs")
    }
}

/// cargo compiles anew what was compiled by a program of another path: the path says what is looked for, and how.
fn name() -> String {
    let mut hasher = DefaultHasher::new();
    (
        include_str!("compiler.rs"),
        fs::read(run::root().join("clippy.toml")).ok(),
    )
        .hash(&mut hasher);
    format!("checking-rustc-{:016x}", hasher.finish())
}

/// Compiles, looks for lints, whose warnings are errors, and documents.
///
/// clippy's driver would compile, too, but leaves out all that makes programs quicker before LLVM sees them: the tests would be
/// of other programs than people run, and slower by a third.
pub(crate) fn compile(arguments: &[String]) -> ExitCode {
    let [rustc, arguments @ ..] = arguments else {
        return ExitCode::FAILURE;
    };
    let Some(source) = source(arguments) else {
        return run(Command::new(rustc).args(arguments));
    };
    // What the compiler itself warns of is an error here, too: it is told of what is not linted as well.
    let compiled = run(Command::new(rustc).args(arguments).arg("-Dwarnings"));
    if compiled != ExitCode::SUCCESS {
        return compiled;
    }
    let package = Package::of_environment();
    let is_test = arguments.iter().any(|word| word == "--test");
    let is_again = env::var_os(AGAIN).is_some();
    if is_test || is_again || !package.tests(source) {
        let mut lint = beside(rustc, "clippy-driver");
        let linted = run(lint.arg(rustc).args(linted(arguments)).arg("-Dwarnings"));
        if linted != ExitCode::SUCCESS {
            return linted;
        }
    }
    let Some(documented) = documented(arguments).filter(|_| !is_again && package.documents(source)) else {
        return compiled;
    };
    // Private items, too: they are what the house is told by. What only such a page links to is no mistake.
    let mut document = beside(rustc, "rustdoc");
    document.args(documented).arg("--document-private-items");
    run(document.args(["-Dwarnings", "-Arustdoc::private-intra-doc-links"]))
}

/// A program of the toolchain that `rustc` is of: both lie in one directory, or both are found on the path.
fn beside(rustc: &str, program: &str) -> Command {
    Command::new(Path::new(rustc).with_file_name(program))
}

fn run(command: &mut Command) -> ExitCode {
    match command.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let program = command.get_program().to_string_lossy();
            eprintln!("{program} does not start: {error}: `rustup component add clippy` installs it");
            ExitCode::FAILURE
        }
    }
}

/// The file that is compiled; there is none when cargo asks what the compiler is.
fn source(arguments: &[String]) -> Option<&str> {
    arguments.iter().map(String::as_str).find(|word| is_source(word))
}

fn is_source(word: &str) -> bool {
    !word.starts_with('-') && Path::new(word).extension().is_some_and(|end| end == "rs")
}

/// What clippy's driver is told: to look and to write nothing that cargo would take for the compiler's.
fn linted(arguments: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--out-dir" => _ = words.next(),
            emit if emit.starts_with("--emit=") => kept.push("--emit=metadata".to_owned()),
            json if json.starts_with("--json=") => kept.push(json.replace(",artifacts", "")),
            _ => kept.push(word.clone()),
        }
    }
    let place = run::target_dir().join("linted");
    kept.extend(["--out-dir".to_owned(), place.to_string_lossy().into_owned()]);
    kept
}

/// What rustdoc is told of a library or a program; nothing of what is only for tests or for a build.
fn documented(arguments: &[String]) -> Option<Vec<String>> {
    let (mut kept, mut name, mut kind) = (Vec::new(), "", "");
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--test" => return None,
            option if SHARED.contains(&option) => {
                let value = words.next()?;
                match option {
                    "--crate-name" => name = value,
                    "--crate-type" => kind = value,
                    _ => {}
                }
                kept.extend([word.clone(), value.clone()]);
            }
            option if COMPILED.contains(&option) => _ = words.next(),
            option if option.starts_with("--edition=") || is_source(option) => kept.push(word.clone()),
            _ => {}
        }
    }
    let place = place(name, kind)?;
    kept.extend(["--out-dir".to_owned(), place.to_string_lossy().into_owned()]);
    Some(kept)
}

/// A program has a place of its own: it may bear the name of its library.
fn place(name: &str, kind: &str) -> Option<PathBuf> {
    let documents = run::target_dir().join("doc");
    match kind {
        _ if name.starts_with("build_script_") => None,
        "lib" => Some(documents),
        "bin" => Some(documents.join("programs")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn only_cargo_calls_it_as_a_compiler() {
        for (line, called) in [
            ("/toolchain/bin/rustc --crate-name x", true),
            ("rustc -vV", true),
            ("test", false),
            ("sim --seeds 3", false),
        ] {
            assert_eq!(is_called(&words(line)), called, "{line}");
        }
        assert!(!is_called(&[]));
    }

    #[test]
    fn clippy_writes_nothing_that_cargo_waits_for() {
        let library = words(
            "--crate-name x src/lib.rs --json=diagnostic-rendered-ansi,artifacts,future-incompat --emit=dep-info,metadata,link \
             --out-dir target/deps --warn=clippy::pedantic --test",
        );
        let expected = format!(
            "--crate-name x src/lib.rs --json=diagnostic-rendered-ansi,future-incompat --emit=metadata --warn=clippy::pedantic \
             --test --out-dir {}",
            run::target_dir().join("linted").display()
        );
        assert_eq!(linted(&library), words(&expected));
    }

    #[test]
    fn rustdoc_is_told_what_the_crate_is_and_not_how_it_is_compiled() {
        let library = words(
            "--crate-name zectre_x --edition=2024 crates/x/src/lib.rs --error-format=json --crate-type lib \
             --emit=dep-info,metadata,link -C opt-level=1 --warn=clippy::pedantic --cfg feature=\"x\" --out-dir target/deps \
             -L dependency=target/deps --extern y=target/deps/liby.rmeta",
        );
        let kept = documented(&library).expect("a library");
        let place = run::target_dir().join("doc");
        let expected = format!(
            "--crate-name zectre_x --edition=2024 crates/x/src/lib.rs --crate-type lib --cfg feature=\"x\" \
             -L dependency=target/deps --extern y=target/deps/liby.rmeta --out-dir {}",
            place.display()
        );
        assert_eq!(kept, words(&expected));
    }

    #[test]
    fn a_library_is_linted_with_its_tests_and_a_program_beside_it_is_not_documented() {
        let package = |manifest: &str, has_library| Package {
            manifest: manifest.into(),
            has_library,
        };
        let program =
            "[package]\nname = \"x\"\n\n[[bin]]\nname = \"x\"\npath = \"src/main.rs\"\ntest = false\n";
        let both = package(program, true);
        for (source, tested, documented) in [
            ("crates/x/src/lib.rs", true, true),
            ("crates/x/src/main.rs", false, false),
            ("crates/x/examples/show.rs", false, false),
            ("crates/x/build.rs", false, false),
        ] {
            assert_eq!(both.tests(source), tested, "{source}");
            assert_eq!(both.documents(source), documented, "{source}");
        }
        assert!(package("[package]\n", false).tests("bench/src/main.rs"));
        assert!(package("[package]\n", false).documents("bench/src/main.rs"));
        assert!(!package("[package]\n\n[lib]\ntest = false\n", true).tests("crates/x/src/lib.rs"));
    }

    #[test]
    fn tests_build_scripts_and_questions_are_not_documented() {
        for line in [
            "--crate-name x src/lib.rs --test --crate-type lib",
            "--crate-name build_script_build build.rs --crate-type bin",
            "-vV",
            "- --crate-name ___ --print=file-names",
        ] {
            assert_eq!(documented(&words(line)), None, "{line}");
        }
        let program = words("--crate-name x src/main.rs --crate-type bin");
        assert!(
            documented(&program)
                .is_some_and(|kept| kept.last().is_some_and(|last| last.ends_with("programs")))
        );
    }
}
