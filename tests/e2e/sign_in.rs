//! Signing command lines in, and passwords, as people do it: with the real command against a real platform.

use serde_json::json;
use std::{path::Path, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};
use zectre_e2e::{Cli, Single};

/// `zectre login`, which waits for its approval.
struct Waiting {
    child: Child,
    /// As it shows it.
    code: String,
    // Open as long as the command may write to it.
    _lines: Lines<BufReader<ChildStderr>>,
}

async fn begin(cli: &Cli, here: &Path) -> Waiting {
    let mut command = Command::from(cli.command(here, &["login"]));
    command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().expect("zectre was built");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    while let Some(line) = lines.next_line().await.expect("text") {
        if let Some((_, code)) = line.split_once("enter the code ") {
            return Waiting {
                child,
                code: code.trim().to_owned(),
                _lines: lines,
            };
        }
    }
    panic!("it showed no code");
}

impl Waiting {
    /// How it ended.
    async fn end(mut self) -> Option<i32> {
        self.child.wait().await.expect("it ends").code()
    }
}

#[tokio::test]
async fn a_command_line_is_approved_from_another_one_or_in_a_browser_and_keeps_a_team() {
    let platform = Single::start().await;
    let (admin, here) = (platform.cli(), platform.directory().to_owned());
    let url = format!("http://127.0.0.1:{}", platform.settings().api_port);
    let other = Cli::new(&here.join("other")).env("ZECTRE_API_URL", &url);

    let waiting = begin(&other, &here).await;
    let code = waiting.code.clone();
    let approve = ["login", "--approve", &code];
    admin.run(&here, &approve).await.success();
    assert_eq!(waiting.end().await, Some(0));
    let who = other.run(&here, &["whoami"]).await;
    assert!(who.success().contains("admin@zectre.localhost"), "{}", who.stdout);
    let again = admin.run(&here, &approve).await;
    assert_eq!(again.code, 4, "{}", again.stderr);
    let keys = async || admin.run(&here, &["tokens", "list"]).await.success().to_owned();
    assert!(keys().await.contains("cli: "));
    other.run(&here, &["logout"]).await.success();
    assert!(!keys().await.contains("cli: "), "its key ends with it");
    assert_eq!(other.run(&here, &["whoami"]).await.code, 3);

    let add = ["users", "add", "ann@example.org", "--password-stdin"];
    admin.run_with(&here, &add, "correct horse\n").await.success();
    let waiting = begin(&other, &here).await;
    let form = format!(
        "code={}&email=ann%40example.org&password=correct+horse&decision=approve",
        waiting.code
    );
    let http = platform.http();
    let answer = http.raw().post(format!("{url}/cli"));
    let answer = answer.header("Content-Type", "application/x-www-form-urlencoded");
    let answer = answer.body(form).send().await.expect("an answer");
    assert_eq!(
        answer.status(),
        200,
        "{}",
        answer.text().await.unwrap_or_default()
    );
    assert_eq!(waiting.end().await, Some(0));
    let who = other.run(&here, &["whoami"]).await;
    assert!(who.success().contains("ann@example.org"), "{}", who.stdout);
    crate::team::is_kept(&admin, &other, &here).await;

    let waiting = begin(&other, &here).await;
    let denied = json!({ "user_code": waiting.code, "approve": false });
    http.post("/auth/cli/approve", denied).await.expect(200);
    assert_eq!(waiting.end().await, Some(3));
}

#[tokio::test]
async fn a_password_is_changed_and_a_forgotten_one_is_reset() {
    let platform = Single::start().await;
    let (admin, here) = (platform.cli(), platform.directory().to_owned());
    let url = format!("http://127.0.0.1:{}", platform.settings().api_port);
    let at = |place: &str| Cli::new(&here.join(place)).env("ZECTRE_API_URL", &url);
    let (home, work) = (at("home"), at("work"));
    let add = ["users", "add", "ann@example.org", "--password-stdin"];
    admin.run_with(&here, &add, "correct horse\n").await.success();
    let login = ["login", "--email", "ann@example.org"];
    for cli in [&home, &work] {
        cli.run_with(&here, &login, "correct horse\n").await.success();
    }
    let set = ["users", "set-password"];
    let wrong = home.run_with(&here, &set, "wrong horse\nbattery staple\n").await;
    assert_ne!(wrong.code, 0, "{}", wrong.stderr);
    home.run_with(&here, &set, "correct horse\nbattery staple\n")
        .await
        .success();
    home.run(&here, &["whoami"]).await.success();
    let ended = work.run(&here, &["whoami"]).await;
    assert_eq!(ended.code, 3, "{}", ended.stderr);

    let reset = admin
        .run(&here, &["users", "reset-password", "ann@example.org"])
        .await;
    let token = reset.success().to_owned();
    let with_token = ["users", "set-password", "--with-token"];
    let input = format!("{token}\nthird time lucky\n");
    work.run_with(&here, &with_token, &input).await.success();
    assert_ne!(work.run_with(&here, &with_token, &input).await.code, 0, "once");
    assert_eq!(home.run(&here, &["whoami"]).await.code, 3);
    work.run_with(&here, &login, "third time lucky\n").await.success();

    let scoped = ["tokens", "create", "ci", "--scope", "read", "--days", "1"];
    let key = work.run(&here, &scoped).await.success().to_owned();
    let pipeline = at("pipeline").env("ZECTRE_API_KEY", &key);
    pipeline.run(&here, &["projects", "list"]).await.success();
    let refused = pipeline.run(&here, &["tokens", "create", "more"]).await;
    assert_eq!(refused.code, 3, "{}", refused.stderr);
}
