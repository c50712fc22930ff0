//! Real programs through the real compiler, run for real.
//!
//! The first test to run warms a cache under `target/`, which takes a minute and needs the
//! dependencies of the template (the network, once); the others wait for it, and later runs find it.

#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

fn tishc() -> Command {
    Command::new(env!("CARGO_BIN_EXE_zectre-tishc"))
}

fn cache() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("it lies in the target directory");
    let cache = target.join("tishc-cache");
    let warmed = tishc()
        .args(["warm", "--online", "--cache"])
        .arg(&cache)
        .output()
        .unwrap();
    assert!(
        warmed.status.success(),
        "{}",
        String::from_utf8_lossy(&warmed.stderr)
    );
    cache
}

/// A project on disk, made of `(path, text)`.
struct Project(tempfile::TempDir);

impl Project {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join("project").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(dir)
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("project")
    }

    fn binary(&self) -> PathBuf {
        self.0.path().join("binary")
    }

    fn compile(&self) -> Output {
        compile(&self.root(), &self.binary())
    }

    /// The binary of a program that compiles.
    fn built(&self) -> PathBuf {
        let output = self.compile();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["ok"], true);
        assert_eq!(answer["size"], fs::metadata(self.binary()).unwrap().len());
        let left: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(
            left.len(),
            2,
            "only the project and the binary are left: {left:?}"
        );
        self.binary()
    }

    /// What is said of a program that doesn't compile: the stage, and the first diagnostic.
    fn refused(&self) -> (String, Value) {
        let output = self.compile();
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        for text in [&stdout, &stderr] {
            assert!(
                !text.contains(self.0.path().to_str().unwrap()),
                "a path leaks: {text}"
            );
            assert!(!text.contains("/.cargo/"), "a path leaks: {text}");
        }
        assert!(!self.binary().exists());
        let answer: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(answer["ok"], false);
        (
            answer["stage"].as_str().unwrap().to_owned(),
            answer["diagnostics"][0].clone(),
        )
    }
}

fn compile(project: &Path, binary: &Path) -> Output {
    let mut command = tishc();
    command
        .args(["compile", "--json", "--entry", "src/main.tish", "--project"])
        .arg(project);
    command
        .arg("--output")
        .arg(binary)
        .arg("--cache")
        .arg(cache())
        .output()
        .unwrap()
}

/// A running server, killed when the test is over.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts it, and waits until it says that it listens.
    fn start(binary: &Path) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut command = Command::new(binary);
        command
            .env_clear()
            .env("PORT", port.to_string())
            .env("TISH_HTTP_WORKERS", "1");
        command
            .env("DEPLOYMENT_ID", "d-1")
            .env("ZECTRE_APP", "hello")
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, listening) = mpsc::channel();
        thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .filter(|line| line.starts_with("tish http: listening"))
                .for_each(|line| {
                    let _ = sender.send(line);
                });
        });
        let server = Self { child, port };
        listening
            .recv_timeout(ANSWER_DEADLINE)
            .expect("the server says that it listens");
        server
    }

    /// One request; the status and the body.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_DEADLINE).unwrap();
        stream.set_read_timeout(Some(ANSWER_DEADLINE)).unwrap();
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}");
        write!(stream, "{head}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

fn example(name: &str) -> (tempfile::TempDir, PathBuf) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .join(name);
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join(name);
    let output = compile(&root, &binary);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (dir, binary)
}

#[test]
fn hello_serves() {
    let (_dir, binary) = example("hello");
    let server = Server::start(&binary);
    assert_eq!(server.ask("GET", "/health", ""), (200, "OK".to_owned()));
    let (status, body) = server.ask("GET", "/", "");
    assert_eq!(status, 200);
    assert!(
        body.contains("Hello from hello!") && body.contains("d-1"),
        "{body}"
    );
    let elf = fs::read(&binary).unwrap();
    assert!(!has_interpreter(&elf), "the binary asks for a dynamic linker");
    let text = String::from_utf8_lossy(&elf);
    assert!(
        !text.contains(env!("CARGO_TARGET_TMPDIR")),
        "it names the directory where it was built"
    );
    assert!(
        !text.contains("/.cargo/registry"),
        "it names this machine's home directory"
    );
}

/// Whether a 64-bit ELF file has a program header of the kind `PT_INTERP`.
fn has_interpreter(elf: &[u8]) -> bool {
    let number = |at: usize, bytes: usize| {
        elf[at..at + bytes]
            .iter()
            .rev()
            .fold(0, |number: usize, byte| number << 8 | usize::from(*byte))
    };
    let (first, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|index| number(first + index * size, 4) == 3)
}

#[test]
fn a_program_of_many_files_keeps_notes() {
    let (_dir, binary) = example("json-api");
    let server = Server::start(&binary);
    let (status, body) = server.ask("POST", "/notes", r#"{"text":"buy milk"}"#);
    assert_eq!((status, body.as_str()), (201, r#"{"id":"1","text":"buy milk"}"#));
    assert_eq!(server.ask("GET", "/notes/1", "").1, body);
    assert_eq!(server.ask("POST", "/notes", "not json").0, 400);
    assert_eq!(server.ask("DELETE", "/notes/1", "").0, 204);
    assert_eq!(server.ask("GET", "/notes/1", "").0, 404);
}

#[test]
fn a_job_ends_with_its_own_exit_code() {
    let (_dir, binary) = example("job");
    let ended = Command::new(binary).output().unwrap();
    assert!(ended.status.success());
    assert!(String::from_utf8_lossy(&ended.stdout).ends_with("17984 primes below 200000\ndone\n"));
    let failing = Project::new(&[("src/main.tish", "console.error(\"no\")\nprocess.exit(3)\n")]);
    assert_eq!(
        Command::new(failing.built()).output().unwrap().status.code(),
        Some(3)
    );
}

#[test]
fn await_waits_for_a_fetch() {
    let hello = example("hello");
    let server = Server::start(&hello.1);
    let text = "let answer = await fetch(process.env.UPSTREAM)\nlet text = await answer.text()\nconsole.log(answer.status, text)\n";
    let client = Project::new(&[("src/main.tish", text)])
        .built_and_run(&format!("http://127.0.0.1:{}/health", server.port));
    assert_eq!(client, "200 OK\n");
}

impl Project {
    fn built_and_run(&self, upstream: &str) -> String {
        let output = Command::new(self.built())
            .env("UPSTREAM", upstream)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn a_syntax_error_in_an_imported_file_is_told_there() {
    let project = Project::new(&[
        (
            "src/main.tish",
            "import { greet } from \"./lib/greet\"\nconsole.log(greet())\n",
        ),
        (
            "src/lib/greet.tish",
            "export fn greet() {\n  let a = = 2\n  return a\n}\n",
        ),
    ]);
    let (stage, found) = project.refused();
    assert_eq!(stage, "check");
    assert_eq!(
        (&found["file"], &found["line"], &found["column"]),
        (&"src/lib/greet.tish".into(), &2.into(), &11.into())
    );
    assert_eq!(found["message"], "unexpected `=`");
}

#[test]
fn names_that_rustc_misses_are_told_on_the_authors_line() {
    let undefined = Project::new(&[
        (
            "src/main.tish",
            "import { shout } from \"./shout\"\nconsole.log(shout(\"hi\"))\n",
        ),
        (
            "src/shout.tish",
            "let mark = \"!\"\n\nexport fn shout(text) {\n  // text + marc\n  return text + marc\n}\n",
        ),
    ]);
    let (stage, found) = undefined.refused();
    assert_eq!(stage, "rustc");
    assert_eq!(
        (&found["file"], &found["line"], &found["column"]),
        (&"src/shout.tish".into(), &5.into(), &17.into())
    );
    assert_eq!(
        (&found["message"], &found["hint"]),
        (&"`marc` is not defined".into(), &"did you mean `mark`?".into())
    );

    let foreign = Project::new(&[("src/main.tish", "var q = 1\nconsole.log(q)\n")]);
    let (_, found) = foreign.refused();
    assert_eq!(
        (&found["message"], &found["hint"]),
        (
            &"`var` is not defined".into(),
            &"Tish has no `var`: write `let`, or `const`".into()
        )
    );

    let not_exported = Project::new(&[
        (
            "src/main.tish",
            "import { a, b as c } from \"./lib\"\nconsole.log(a, c)\n",
        ),
        ("src/lib.tish", "export let a = 1\n"),
    ]);
    let (_, found) = not_exported.refused();
    assert_eq!(
        (&found["file"], &found["message"]),
        (
            &"src/main.tish".into(),
            &"`src/lib.tish` does not export `b`".into()
        )
    );

    let constant = Project::new(&[("src/main.tish", "const a = 1\n\na = 2\nconsole.log(a)\n")]);
    assert_eq!(constant.refused().1["line"], 3);

    let arguments = Project::new(&[(
        "src/main.tish",
        "fn f(x: number) { return x }\nconsole.log(f())\n",
    )]);
    let (stage, found) = arguments.refused();
    assert_eq!((stage.as_str(), &found["line"]), ("translate", &2.into()));
}

#[test]
fn what_would_run_native_code_or_leave_the_project_is_refused() {
    let hello = ("src/main.tish", "console.log(1)\n");
    let package = r#"{ "tish": { "rustDependencies": { "evil": { "path": "./evil" } } } }"#;
    let (stage, found) = Project::new(&[hello, ("package.json", package)]).refused();
    assert_eq!(
        (stage.as_str(), &found["file"]),
        ("check", &"package.json".into())
    );
    assert!(found["message"].as_str().unwrap().contains("rustDependencies"));

    for import in [
        "cargo:serde",
        "ffi:./a.so",
        "../../outside",
        "./link",
        "./up/outside",
        "ws",
    ] {
        let text = format!("let one = 1\nimport {{ a }} from \"{import}\"\nconsole.log(a)\n");
        let project = Project::new(&[("src/main.tish", &text)]);
        fs::write(project.0.path().join("outside.tish"), "export let a = 1\n").unwrap();
        std::os::unix::fs::symlink("../../outside.tish", project.root().join("src/link.tish")).unwrap();
        std::os::unix::fs::symlink("../..", project.root().join("src/up")).unwrap();
        let (stage, found) = project.refused();
        assert_eq!(
            (stage.as_str(), &found["line"]),
            ("check", &2.into()),
            "{import}: {found}"
        );
        assert!(found["message"].as_str().unwrap().contains(import), "{found}");
    }

    let entry = Project::new(&[("src/other.tish", "console.log(1)\n")]);
    std::os::unix::fs::symlink("/etc/passwd", entry.root().join("src/main.tish")).unwrap();
    assert!(entry.refused().1["message"].as_str().unwrap().contains("outside"));
    let missing = Project::new(&[("src/other.tish", "console.log(1)\n")]);
    assert!(
        missing.refused().1["message"]
            .as_str()
            .unwrap()
            .contains("does not exist")
    );
}

#[test]
fn programs_compiled_at_once_are_not_mixed_up() {
    let compiled: Vec<_> = (0..4)
        .map(|number| {
            thread::spawn(move || {
                let text = format!("console.log(\"program {number}\")\n");
                Project::new(&[("src/main.tish", &text)]).built_and_run("")
            })
        })
        .collect();
    for (number, program) in compiled.into_iter().enumerate() {
        assert_eq!(program.join().unwrap(), format!("program {number}\n"));
    }
}

#[test]
fn a_cold_cache_and_a_bad_command_line_say_so() {
    let project = Project::new(&[("src/main.tish", "console.log(1)\n")]);
    let cold = tempfile::tempdir().unwrap();
    let compile = |output: &Path| {
        let mut command = tishc();
        command
            .args(["compile", "--json", "--project"])
            .arg(project.root())
            .arg("--output")
            .arg(output);
        command.arg("--cache").arg(cold.path()).output().unwrap()
    };
    let output = compile(&project.binary());
    assert_eq!(output.status.code(), Some(70));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["stage"], "machine");
    assert!(
        answer["diagnostics"][0]["message"]
            .as_str()
            .unwrap()
            .contains("zectre-tishc warm")
    );
    assert_eq!(
        compile(Path::new("/no/such/directory/binary")).status.code(),
        Some(2)
    );
    assert_eq!(tishc().arg("fly").output().unwrap().status.code(), Some(2));
}

/// Processes of a group, but those that only wait to be reaped.
fn members(group: u32) -> usize {
    let all = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let of_group = all.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    of_group
        .filter(|stat| {
            // After the name in parentheses: state, parent, group.
            let mut words = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            let state = words.next();
            state != Some("Z") && words.nth(1).and_then(|word| word.parse().ok()) == Some(group)
        })
        .count()
}

#[test]
fn a_warm_up_ends_with_whoever_asked_for_it_and_leaves_no_compiler() {
    let cold = tempfile::tempdir().unwrap();
    let mut command = tishc();
    command
        .args(["warm", "--online", "--until-eof", "--cache"])
        .arg(cold.path());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut warming = std::os::unix::process::CommandExt::process_group(&mut command, 0)
        .spawn()
        .unwrap();
    let group = warming.id();
    let until = |what: &str, is_so: &dyn Fn() -> bool| {
        let deadline = Instant::now() + ANSWER_DEADLINE;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}");
            thread::park_timeout(Duration::from_millis(20));
        }
    };
    until("it has started a compiler", &|| members(group) > 1);
    drop(warming.stdin.take());
    assert!(!warming.wait().unwrap().success());
    until("all of it has ended", &|| members(group) == 0);
}

#[test]
fn a_warm_cache_answers_at_once() {
    let cache = cache();
    let start = Instant::now();
    let again = tishc()
        .args(["warm", "--json", "--cache"])
        .arg(&cache)
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(
        (&answer["ok"], &answer["built"]),
        (&true.into(), &false.into()),
        "after {:?}",
        start.elapsed()
    );
}
