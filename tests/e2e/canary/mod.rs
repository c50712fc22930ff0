//! Planted secrets are in no sink after a full scenario: no answer, log, event, process, file or row tells them.

mod scene;

use reqwest::Method;
use scene::{Scene, shown_once, wrong_requests};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use zectre_e2e::{CliOutput, Daemons, Http, Needles, ProcessWatch, SERVICES, Settings};
use zectre_testkit::{DockerEngine, ImageRegistry, METRICS_TOKEN, postgres_bin_dir, wait_until};

/// Never prints a variable.
const PROGRAM: &str = r#"fn handleRequest(req) {
  console.log("request")
  return { status: 200, headers: { "Content-Type": "text/plain" }, body: "served" }
}
serve(parseInt(process.env.PORT), handleRequest)
"#;

/// Secrets by what they are.
type Secrets = BTreeMap<&'static str, String>;
/// The ids of what was made.
type Things = BTreeMap<&'static str, String>;

/// What is searched, by its name.
#[derive(Default)]
struct Sinks(BTreeMap<String, Vec<u8>>);

impl Sinks {
    fn add(&mut self, name: &str, content: impl AsRef<[u8]>) {
        let all = self.0.entry(name.into()).or_default();
        all.extend_from_slice(content.as_ref());
        all.push(b'\n');
    }

    fn said(&mut self, command: &str, output: &CliOutput) {
        self.add(&format!("`zectre {command}`"), &output.stdout);
        self.add(&format!("`zectre {command}`"), &output.stderr);
    }

    async fn answer(&mut self, name: &str, http: reqwest::RequestBuilder) -> reqwest::StatusCode {
        let answer = http.send().await.expect("an answer");
        let status = answer.status();
        self.add(name, format!("{:?}", answer.headers()));
        self.add(name, answer.bytes().await.expect("a body"));
        status
    }
}

/// A forge that wants another token than it is given, and a receiver of webhooks that takes what it gets.
async fn outside() -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("an address");
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut calls = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            calls.spawn(answer(stream));
        }
    });
    (format!("http://{address}/"), serving)
}

async fn answer(mut stream: TcpStream) {
    let mut head = vec![0; 16384];
    let read = stream.read(&mut head).await.unwrap_or(0);
    let status = if head[..read].starts_with(b"GET") {
        "401 Unauthorized\r\nwww-authenticate: Basic realm=\"forge\""
    } else {
        "200 OK"
    };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    // Who is told may be gone.
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// What people choose; the rest is made by the platform and shown once.
fn planted() -> Secrets {
    let secrets = [
        "variable",
        "changed variable",
        "source token",
        "source webhook secret",
        "password",
        "visitor",
    ];
    let mut planted: BTreeMap<_, _> = secrets
        .into_iter()
        .zip(["v1", "v2", "to", "wh", "pw", "vi"])
        .map(|(name, short)| (name, format!("canary/{short}+{}%\"=", uuid())))
        .collect();
    // Registries take a password without quotes in the settings' own.
    planted.insert("registry password", format!("canary/rp+{}%=", uuid()));
    planted
}

fn uuid() -> String {
    zectre_common::id::TaskId::new().to_string()
}

/// The task has its variables, git its token for as long as it fetches, and the command its user's key.
fn may_have(command: &str, environment: &str, secret: &str) -> bool {
    let is_task = environment.contains("TASK_ID=");
    let fetches = environment.contains("GIT_CONFIG_KEY_0=");
    let is_command = command
        .split(' ')
        .next()
        .is_some_and(|program| program.ends_with("/zectre"));
    (is_task && secret.contains("variable"))
        || (fetches && secret.starts_with("source token"))
        || (is_command && secret.starts_with("api key"))
}

#[tokio::test]
async fn planted_secrets_are_in_no_sink() {
    let (engine, images) = tokio::join!(DockerEngine::start(), ImageRegistry::start());
    let (outside, _serving) = outside().await;
    let mut secrets = planted();
    let access_log = tempfile::NamedTempFile::new().expect("a file");
    let settings = Settings {
        container_socket: Some(engine.socket().to_owned()),
        ..Default::default()
    };
    let login = format!(
        "[{{ host = \"{}\", username = \"agent\", password = '{}' }}]",
        images.host(),
        secrets["registry password"]
    );
    let extra = [
        ("logs", "filter", "\"debug\"".into()),
        ("auth", "signup", "\"open\"".into()),
        ("agent", "registries", login),
        ("build", "git_sources", format!("[\"{outside}\"]")),
        ("webhooks", "allow_private", "true".into()),
        ("proxy.access_log", "enabled", "true".into()),
        ("proxy.access_log", "target", format!("{:?}", access_log.path())),
    ];
    let platform = Daemons::start_with(settings, &extra).await;
    let once = shown_once(&platform.http(), &outside, &mut secrets).await;
    let needles = Needles::new(&secrets);
    let watch = ProcessWatch::begin(needles.clone(), may_have);
    let project = platform.directory().join("canary");
    fs::create_dir(&project).expect("it is ours");
    let scene = Scene {
        platform: &platform,
        http: &platform.http().with_key(&secrets["api key"]),
        secrets: &secrets,
        outside: &outside,
        images: images.host(),
        webhook: &once["webhook"],
        project: &project,
    };
    let mut sinks = Sinks::default();
    let things = scene.play(&mut sinks).await;
    wrong_requests(scene.http, &secrets, &things, &mut sinks).await;
    every_get(scene.http, &things, &once, &mut sinks).await;
    the_command(&scene, &mut sinks).await;
    of_daemons(&platform, access_log.path(), &mut sinks).await;

    let mut found = BTreeSet::new();
    for (sink, content) in &sinks.0 {
        assert!(content.len() > 1, "{sink} is empty");
        found.extend(
            needles
                .in_bytes(content)
                .iter()
                .map(|hit| format!("{hit} in {sink}")),
        );
    }
    let own = [platform.directory().join("config.toml"), project];
    for (file, hits) in needles.in_files(platform.directory(), &|path| own.iter().any(|own| own == path)) {
        found.extend(hits.iter().map(|hit| format!("{hit} in the file {file}")));
    }
    let seen = watch.end();
    found.extend(seen.wrongly);
    assert!(found.is_empty(), "{found:#?}");
    // The search would have found them: this one was seen where it has to be, in a task that runs on. Commands and git have
    // theirs for so short a time that no look may fall into it.
    let seen = seen.rightly.iter().any(|hit| hit.starts_with("variable (raw)"));
    assert!(seen, "no process has the variable");
    let config = fs::read(&own[0]).expect("it is there");
    assert!(needles.in_bytes(&config).contains("registry password (raw)"));
}

/// What daemons tell operators, and what they keep.
async fn of_daemons(platform: &Daemons, access_log: &Path, sinks: &mut Sinks) {
    let http = platform.http();
    for service in SERVICES {
        let url = format!("http://127.0.0.1:{}/metrics", platform.admin_port(service));
        let metrics = http.raw().get(url).bearer_auth(METRICS_TOKEN);
        assert_eq!(sinks.answer(&format!("{service}'s metrics"), metrics).await, 200);
    }
    let routes = format!("http://127.0.0.1:{}/routes", platform.admin_port("zectre-proxy"));
    sinks.answer("the proxy's routes", http.raw().get(routes)).await;
    let log = wait_until(Duration::from_secs(60), "the access log is written", async || {
        let log = fs::read_to_string(access_log).unwrap_or_default();
        log.contains("/visited").then_some(log)
    })
    .await;
    sinks.add("the access log", log);
    let logs = platform.logs();
    assert!(logs.contains("DEBUG"), "the daemons tell everything");
    sinks.add("the daemons' logs", logs);
    let rows = dump(platform);
    assert!(
        String::from_utf8_lossy(&rows).contains("canary-default"),
        "the rows are there"
    );
    sinks.add("the database", rows);
}

/// Every GET of the document that answers with text, of everything that the scenario made.
async fn every_get(http: &Http, things: &Things, once: &Things, sinks: &mut Sinks) {
    let document = http.get("/openapi.json").await.expect(200);
    sinks.add("the document", document.to_string());
    sinks
        .answer("the document's pages", http.request(Method::GET, "/docs"))
        .await;
    let paths = document["paths"].as_object().expect("paths");
    let mut asked = 0;
    for path in paths
        .iter()
        .filter(|(_, item)| item.get("get").is_some())
        .map(|(path, _)| path)
    {
        if path.ends_with("/download") || path.ends_with("openapi.json") {
            continue;
        }
        for path in filled(path, things, once) {
            let request = http.request(Method::GET, &path).header("last-event-id", "0");
            if path.ends_with("/stream") {
                sinks.add(&format!("GET {path}"), beginning(request).await);
            } else {
                sinks.answer(&format!("GET {path}"), request).await;
            }
            asked += 1;
        }
    }
    assert!(asked > 40, "{asked} were asked");
}

fn filled(path: &str, things: &Things, once: &Things) -> Vec<String> {
    let fixed = path
        .replace("{namespace}", "default")
        .replace("{name}", "canary")
        .replace("{subdomain}", "canary-default")
        .replace("{slug}", "default");
    let kinds: &[(&str, &[&str])] = &[
        ("apps", &["app"]),
        ("builds", &["git"]),
        ("deployments", &["deployment", "failed", "private"]),
        ("tasks", &["task"]),
        ("nodes", &["node"]),
        ("artifacts", &["artifact"]),
    ];
    if !fixed.contains("{id}") {
        return vec![fixed];
    }
    for (kind, name) in [("/users/", "user"), ("/webhooks/", "webhook")] {
        if fixed.contains(kind) {
            return vec![fixed.replace("{id}", &once[name])];
        }
    }
    let kind = kinds
        .iter()
        .find(|(kind, _)| fixed.contains(&format!("/{kind}/{{id}}")));
    let ids = kind
        .unwrap_or_else(|| panic!("{path} is of nothing that the scenario made"))
        .1;
    ids.iter()
        .map(|name| fixed.replace("{id}", &things[name]))
        .collect()
}

/// What a stream has to say at once.
async fn beginning(request: reqwest::RequestBuilder) -> Vec<u8> {
    let mut stream = request.send().await.expect("an answer");
    let mut said = Vec::new();
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(Duration::from_millis(300), stream.chunk()).await {
        said.extend_from_slice(&chunk);
    }
    said
}

async fn the_command(scene: &Scene<'_>, sinks: &mut Sinks) {
    let (cli, project) = (scene.cli(), scene.project);
    let commands: &[&[&str]] = &[
        &["env", "list"],
        &["env", "pull", "pulled.env"],
        &["status"],
        &["ps"],
        &["logs"],
        &["events"],
        &["builds"],
        &["artifacts"],
        &["tokens", "list"],
        &["webhooks", "list"],
        &["users", "list"],
        &["nodes", "list"],
        &["projects", "list"],
        &["whoami"],
        &["doctor"],
    ];
    for command in commands {
        for arguments in [command.to_vec(), [*command, &["--json"]].concat()] {
            sinks.said(&arguments.join(" "), &cli.run(project, &arguments).await);
        }
    }
    sinks.add(
        "pulled.env",
        fs::read(project.join("pulled.env")).expect("it was pulled"),
    );
}

/// Every row, as `pg_dump` writes them.
fn dump(platform: &Daemons) -> Vec<u8> {
    use secrecy::ExposeSecret;
    let url = platform.database().url();
    let output = Command::new(postgres_bin_dir().join("pg_dump"))
        .args(["--inserts", "--dbname", url.expose_secret()])
        .output()
        .expect("PostgreSQL's programs are installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}
