//! From source to a served URL, by the command and by plain HTTP.

use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};
use zectre_e2e::{App, Daemons, archive, program, server_program, tish_cache};
use zectre_testkit::wait_until;

const HELLO: &str = r#"fn handleRequest(req) {
  console.log("request " + req.path)
  return { status: 200, headers: { "Content-Type": "text/plain" }, body: "version one " + process.env.DEPLOYMENT_ID + " " + (("WHO" in process.env) ? process.env.WHO : "nobody") }
}
let port = "PORT" in process.env ? parseInt(process.env.PORT) : 8080
console.log("listening on " + port)
serve(port, handleRequest)
"#;

#[tokio::test]
async fn the_command_leads_from_nothing_to_a_url_and_back() {
    let platform = Daemons::start().await;
    let (cli, http) = (platform.cli(), platform.http());
    let project = platform.directory().join("tour");
    fs::create_dir(&project).expect("it is ours");
    let zectre = async |arguments: &[&str]| cli.run(&project, arguments).await;

    zectre(&["init"]).await.success();
    assert!(project.join("zectre.yaml").is_file() && project.join("src/main.tish").is_file());
    zectre(&["projects", "add", "tour"]).await.success();
    assert!(zectre(&["projects", "list"]).await.success().contains("tour"));
    fs::write(project.join("src/main.tish"), HELLO).expect("it is ours");
    // What .gitignore names is not sent.
    fs::write(project.join(".gitignore"), "secrets/\n").expect("it is ours");
    fs::create_dir(project.join("secrets")).expect("it is ours");
    fs::write(project.join("secrets/zectre.yaml"), "not even YAML: [").expect("it is ours");

    let deployed = zectre(&["deploy", "--prod", "--wait"]).await;
    assert!(
        deployed.success().contains("tour-default.zectre.localhost"),
        "it prints the URL: {}",
        deployed.stdout
    );
    for line in [
        "  compiled src/main.tish",
        "✓ Built",
        "✓ tour version 1 (production)",
    ] {
        assert!(deployed.stderr.contains(line), "no `{line}`: {}", deployed.stderr);
    }
    let answer = http.app("tour-default", "/").await;
    assert!(answer.text().starts_with("version one"), "{}", answer.text());

    assert!(zectre(&["status"]).await.success().contains("healthy"));
    let tasks: Value =
        serde_json::from_str(zectre(&["ps", "--json"]).await.success()).expect("--json prints JSON");
    assert!(tasks.to_string().contains("running"), "{tasks}");
    wait_until(Duration::from_secs(60), "the log is stored", async || {
        zectre(&["logs"]).await.stdout.contains("request /").then_some(())
    })
    .await;
    zectre(&["scale", "2"]).await.success();
    assert!(zectre(&["open"]).await.success().contains("tour-default"));

    zectre(&["env", "add", "WHO=world"]).await.success();
    zectre(&["env", "add", "TOKEN", "hunter2", "--secret"])
        .await
        .success();
    let listed = zectre(&["env", "list"]).await;
    assert!(
        listed.success().contains("WHO") && !listed.stdout.contains("hunter2"),
        "{}",
        listed.stdout
    );
    fs::write(
        project.join("src/main.tish"),
        HELLO.replace("version one", "version two"),
    )
    .expect("it is ours");
    zectre(&["deploy", "--prod", "--wait"]).await.success();
    let answer = http.app("tour-default", "/").await.text();
    assert!(
        answer.starts_with("version two") && answer.ends_with("world"),
        "{answer}"
    );

    zectre(&["rollback"]).await.success();
    wait_until(Duration::from_secs(60), "the first version is back", async || {
        http.app("tour-default", "/")
            .await
            .text()
            .starts_with("version one")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_compile_error_stops_the_command_at_the_line() {
    let platform = Daemons::start().await;
    let project = platform.directory().join("mistake");
    fs::create_dir_all(project.join("src")).expect("it is ours");
    fs::write(project.join("zectre.yaml"), "name: mistake\n").expect("it is ours");
    fs::write(
        project.join("src/main.tish"),
        "let a = 1\nconsole.log(a + undefinedName)\n",
    )
    .expect("it is ours");
    let output = platform.cli().run(&project, &["deploy", "--prod"]).await;
    let said = output.failure();
    assert!(
        said.contains("src/main.tish:2") && said.contains("undefinedName"),
        "{said}"
    );
    assert!(
        !said.contains("/tmp/") && !said.contains(".rs:"),
        "nobody else's paths: {said}"
    );
}

#[tokio::test]
async fn logs_are_followed_as_they_come() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "chatty").await;
    let two = json!({"replicas": 2});
    let deployment = app.deploy_program(&server_program(), two).await.succeeded();
    let arguments = [
        "logs",
        "-f",
        "--project",
        "chatty",
        "--deployment",
        deployment.id(),
    ];
    let mut command = tokio::process::Command::from(platform.cli().command(platform.directory(), &arguments));
    let mut follower = command
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("zectre was built");
    let mut lines = BufReader::new(follower.stdout.take().expect("piped")).lines();
    let mut next = async |wanted: &str| {
        let found = async {
            loop {
                let line = lines.next_line().await.expect("readable").expect("it goes on");
                if line.contains(wanted) {
                    return line;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), found)
            .await
            .unwrap_or_else(|_| panic!("no line with `{wanted}`"))
    };
    let (one, other) = (next("started with PORT=").await, next("started with PORT=").await);
    http.app(&app.subdomain, "/log").await.expect_ok();
    let said = next("a line to the log").await;
    // Whose each line is, from the first one on.
    let replica = |line: &str| line.split_once("] ").map(|(id, _)| id.to_owned());
    let (one, other, said) = (replica(&one), replica(&other), replica(&said));
    assert!(
        one.is_some() && other.is_some() && one != other,
        "{one:?} {other:?}"
    );
    assert!(said == one || said == other, "{said:?}");
    // What was shown is stored.
    let arguments = [&arguments[..1], &arguments[2..]].concat();
    let all = platform.cli().run(platform.directory(), &arguments).await;
    for id in [one, other].into_iter().flatten() {
        assert!(
            all.success().contains(&format!("{id}] started with PORT=")),
            "{}",
            all.stdout
        );
    }
}

#[tokio::test]
async fn plain_http_builds_several_files_and_deploys_them() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "plain").await;
    let main = "import { greet } from \"./lib/greet.tish\"\n\
                fn handleRequest(req) { return { status: 200, body: greet(req.path) } }\n\
                serve(parseInt(process.env.PORT), handleRequest)\n";
    let greet = "export fn greet(who) { return \"hello \" + who }\n";
    let build = app
        .build(archive(&[("src/main.tish", main), ("src/lib/greet.tish", greet)]))
        .await;
    assert_eq!(build["status"], "succeeded", "{build:#}");
    let artifact = http
        .get(&format!(
            "/artifacts/{}",
            build["artifact_id"].as_str().expect("an artifact")
        ))
        .await
        .expect(200);
    assert_eq!(artifact["kind"], "binary");
    let log = http
        .get(&format!("/builds/{}/logs", build["id"].as_str().expect("an id")))
        .await
        .expect(200);
    assert!(log.as_array().is_some_and(|lines| !lines.is_empty()), "{log}");

    let id = app
        .deploy(json!({"build_id": build["id"], "environment": "production"}))
        .await;
    let outcome = app.outcome(&id).await.succeeded();
    assert_eq!(http.app(&app.subdomain, "/you").await.text(), "hello /you");
    // Each deployment also answers at a name of its own.
    let label = outcome.deployment["preview_label"].as_str().expect("a label");
    assert_eq!(http.app(label, "/me").await.text(), "hello /me");
}

#[tokio::test]
async fn the_four_rules_lead_a_host_to_its_deployment() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "named").await;
    let program = server_program();
    let development = json!({"environment": "development", "env": {"GREETING": "dev"}});
    let dev = app.deploy_program(&program, development).await.succeeded();
    // Until there is a production, the subdomain leads to development.
    assert!(http.app(&app.subdomain, "/").await.text().starts_with("dev "));
    app.deploy_program(&program, json!({"env": {"GREETING": "prod"}}))
        .await
        .succeeded();
    wait_until(Duration::from_secs(60), "production has the name", async || {
        http.app(&app.subdomain, "/")
            .await
            .text()
            .starts_with("prod ")
            .then_some(())
    })
    .await;
    let label = dev.deployment["preview_label"].as_str().expect("a label");
    assert!(http.app(label, "/").await.text().starts_with("dev "));

    let unknown = http.app("nobody-default", "/").await;
    assert_eq!(unknown.status, 404);
    assert!(
        unknown.headers.contains_key("x-error-detail"),
        "{:?}",
        unknown.headers
    );
    let page = http
        .app_request(Method::GET, "nobody-default", "/")
        .header("accept", "text/html")
        .send()
        .await
        .expect("an answer");
    assert!(
        page.headers()["content-type"]
            .to_str()
            .expect("ASCII")
            .starts_with("text/html")
    );
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "stream").await;
    app.deploy_program(&server_program(), json!({})).await.succeeded();
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let body = futures_util::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|item| (item, receiver))
    });
    let request = http
        .app_request(Method::POST, &app.subdomain, "/echo")
        .body(reqwest::Body::wrap_stream(body));
    sender
        .send(Ok(b"first".to_vec()))
        .await
        .expect("the request is open");
    let response = request.send().await.expect("the head comes before the body ends");
    let mut answer = response.bytes_stream();
    let mut next = async || {
        let chunk = tokio::time::timeout(Duration::from_secs(60), answer.next())
            .await
            .expect("in time");
        chunk.map(|chunk| chunk.expect("the stream holds").to_vec())
    };
    assert_eq!(
        next().await.as_deref(),
        Some(&b"first"[..]),
        "the answer came while the request went on"
    );
    sender
        .send(Ok(b"second".to_vec()))
        .await
        .expect("the request is open");
    assert_eq!(next().await.as_deref(), Some(&b"second"[..]));
    drop(sender);
    assert_eq!(next().await, None);

    // As large as proxies let bodies be by default.
    let large = vec![b'x'; 16 << 20];
    let request = http
        .app_request(Method::POST, &app.subdomain, "/echo")
        .body(large.clone());
    let echoed = request
        .send()
        .await
        .expect("an answer")
        .bytes()
        .await
        .expect("all of it");
    assert!(echoed == large, "{} bytes came back", echoed.len());
}

#[tokio::test]
async fn a_task_finds_its_environment() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "environed").await;
    let set = async |key: &str, body: Value| {
        http.send(Method::PUT, &format!("/apps/{}/env/{key}", app.id), body)
            .await
    };
    assert!(set("A", json!({"value": "app"})).await.status.is_success());
    assert!(set("B", json!({"value": "app"})).await.status.is_success());
    assert!(
        set("B", json!({"value": "production", "environment": "production"}))
            .await
            .status
            .is_success()
    );
    assert!(
        set("S", json!({"value": "hunter2", "secret": true}))
            .await
            .status
            .is_success()
    );
    let request = json!({"env": {"C": "own", "PORT": "1"}});
    let deployment = app.deploy_program(&server_program(), request).await.succeeded();
    let environment = http.app(&app.subdomain, "/env").await.text();
    let has = |entry: &str| {
        assert!(
            environment.lines().any(|line| line == entry),
            "{entry} in:\n{environment}"
        );
    };
    for entry in [
        "A=app",
        "B=production",
        "C=own",
        "S=hunter2",
        "ZECTRE_APP=environed",
        "ZECTRE_NAMESPACE=default",
    ] {
        has(entry);
    }
    has("ZECTRE_ENVIRONMENT=production");
    has(&format!("DEPLOYMENT_ID={}", deployment.id()));
    assert!(
        environment.contains("TASK_ID=") && !environment.contains("PORT=1\n"),
        "{environment}"
    );
    assert!(!platform.logs().contains("hunter2"), "a secret in a log");
    let shown = http.get(&format!("/apps/{}/env", app.id)).await.text();
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn a_container_is_served_from_a_real_engine() {
    let engine = zectre_testkit::DockerEngine::start().await;
    engine
        .import_image("zectre-test/server:1", &server_program())
        .await;
    let settings = zectre_e2e::Settings {
        container_socket: Some(engine.socket().to_owned()),
        ..Default::default()
    };
    let platform = Daemons::start_with(settings, &[]).await;
    let http = platform.http();
    let app = App::create(&http, "boxed").await;
    let request = json!({
        "image": "zectre-test/server:1", "command": ["/program"], "environment": "production",
        "env": {"GREETING": "boxed"}, "networking": {"port": 8080},
    });
    let id = app.deploy(request).await;
    let outcome = app.outcome(&id).await.succeeded();
    assert_eq!(outcome.deployment["spec"]["process_type"], "docker");
    assert!(http.app(&app.subdomain, "/").await.text().starts_with("boxed "));
    let next = app
        .deploy(json!({"image": "localhost:1/nowhere:9", "environment": "production"}))
        .await;
    assert_eq!(app.outcome(&next).await.failed(), "image_pull_failed");
    assert!(http.app(&app.subdomain, "/").await.text().starts_with("boxed "));

    // The example, as its README says.
    let examples = platform.directory().join("examples");
    for name in ["hello", "container"] {
        copy_dir(&example(name), &examples.join(name));
    }
    let (example, cli) = (examples.join("container"), platform.cli());
    let mut compile = Command::new(program("zectre-tishc"));
    compile.args([
        "compile",
        "--project",
        "../hello",
        "--output",
        "server",
        "--cache",
    ]);
    compile.arg(tish_cache());
    let mut build = engine.docker();
    build.args(["build", "-t", "zectre-example-container:1", "."]);
    for command in [&mut compile, &mut build] {
        let done = command
            .current_dir(&example)
            .output()
            .await
            .expect("it is installed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    cli.run(&example, &["projects", "add"]).await.success();
    let deployed = cli.run(&example, &["deploy", "--prod", "--wait"]).await;
    assert!(deployed.success().contains("container-default.zectre.localhost"));
    let answer = http.app("container-default", "/").await.text();
    assert!(answer.starts_with("Hello from container!"), "{answer}");
    // Any image by its name, and no manifest.
    let arguments = "deploy --image zectre-example-container:1 --project boxed --prod --wait";
    let arguments: Vec<_> = arguments.split(' ').collect();
    cli.run(platform.directory(), &arguments).await.success();
    let answer = http.app(&app.subdomain, "/").await.text();
    assert!(answer.starts_with("Hello from boxed!"), "{answer}");
}

/// Where an example of the repository is.
fn example(name: &str) -> PathBuf {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the checkout");
    checkout.join("examples").join(name)
}

#[tokio::test]
async fn the_examples_build_and_do_what_they_say() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let cli = platform.cli();
    for name in ["hello", "json-api", "job"] {
        let copy = platform.directory().join(name);
        copy_dir(&example(name), &copy);
        let added = cli.run(&copy, &["projects", "add"]).await;
        // A job answers nowhere.
        assert_eq!(added.success().is_empty(), name == "job", "{}", added.stdout);
        cli.run(&copy, &["deploy", "--prod", "--wait"]).await.success();
    }
    assert_eq!(http.app("hello-default", "/").await.status, 200);
    assert_eq!(http.app("json-api-default", "/notes").await.status, 200);
}

/// Examples are deployed from copies: linking a project writes into its directory.
fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("it is ours");
    let entries = fs::read_dir(from).expect("the example is there").flatten();
    // Someone may have deployed the original: its link leads to another platform.
    for entry in entries.filter(|entry| entry.file_name() != ".zectre") {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a plain file");
        }
    }
}
