use super::*;
use crate::quantity::{CpuMillis, MemoryBytes};

const WHOLE: &str = r#"# everything
name: shop
namespace: team
build:
  source: ./app/server.tish
  features: [http, fs]
deploy:
  replicas: 2
  strategy: { type: canary, weight: 5 }
  process_type: tish
  env:
    PORT_HINT: 8080
    FLAG: true
    TEXT: "a: b"
  max_runtime_secs: 60
  volumes:
    - { host_path: /srv/data, container_path: /data }
  restart: on_failure
  cold_start: false
  idle_timeout: 5m
  stop_grace: 1500ms
  constraints: ["region=eu", "!gpu"]
  anti_affinity: true
resources:
  cpu: 0.5
  memory: 256Mi
networking:
  port: 3000
  protocol: http
  health_check: { path: /health, interval: 5s, timeout: 2 }
"#;

fn refused(text: &str) -> String {
    Manifest::parse("zectre.yaml", text).expect_err(text).to_string()
}

#[test]
fn every_key_reaches_the_request() {
    let manifest = Manifest::parse("zectre.yaml", WHOLE).expect("valid");
    assert_eq!(
        (manifest.name(), manifest.namespace()),
        (Some("shop"), Some("team"))
    );
    assert_eq!(
        (manifest.entry(), manifest.features().join(",")),
        ("./app/server.tish", "http,fs".into())
    );
    let request = manifest.deployment_request();
    assert_eq!(request.replicas, Some(2));
    assert_eq!(
        request.strategy,
        Some(Strategy::Canary {
            weight: 5,
            auto_promote_secs: None
        })
    );
    let env = request.env.expect("named");
    assert_eq!(
        (
            env["PORT_HINT"].as_str(),
            env["FLAG"].as_str(),
            env["TEXT"].as_str()
        ),
        ("8080", "true", "a: b")
    );
    assert_eq!(
        (
            request.idle_timeout_secs,
            request.stop_grace_secs,
            request.max_runtime_secs
        ),
        (Some(300), Some(2), Some(60))
    );
    assert_eq!(
        (request.cold_start_enabled, request.restart),
        (Some(false), Some(RestartPolicy::OnFailure))
    );
    let resources = request.resources.expect("named");
    assert_eq!(
        (resources.cpu, resources.memory),
        (Some(CpuMillis(500)), Some(MemoryBytes(256 << 20)))
    );
    let check = request.networking.expect("named").health_check.expect("named");
    assert_eq!(
        (check.path.as_deref(), check.interval, check.timeout),
        (Some("/health"), DurationMs(5_000), DurationMs(2_000))
    );
    assert_eq!(request.constraints.map(|all| all.len()), Some(2));
    assert_eq!(request.anti_affinity, Some(true));
}

#[test]
fn an_empty_manifest_takes_every_default() {
    for text in ["", "# nothing yet\n", "---\n"] {
        let manifest = Manifest::parse("zectre.yaml", text).expect(text);
        assert_eq!(
            (manifest.entry(), manifest.features().len()),
            ("./src/main.tish", 0)
        );
        assert_eq!(manifest.deployment_request(), DeploymentRequest::default());
    }
}

/// What is written, and how the error begins.
const MISTAKES: &[(&str, &str)] = &[
    (
        "deploy:\n  replica: 2\n",
        "zectre.yaml:2:3: unknown key `replica`; did you mean `replicas`?",
    ),
    (
        "nmae: shop\n",
        "zectre.yaml:1:1: unknown key `nmae`; did you mean `name`?",
    ),
    (
        "name: shop\nnetworking:\n  health_check:\n    pth: /\n",
        "zectre.yaml:4:5: unknown key `pth`; did you mean `path`?",
    ),
    (
        "zzz: 1\n",
        "zectre.yaml:1:1: unknown key `zzz`; known here: name, namespace, build, deploy, resources, networking",
    ),
    (
        "deploy:\n  replicas: three\n",
        "zectre.yaml:2:13: `deploy.replicas` takes a whole number from 0 to 1000",
    ),
    (
        "deploy:\n  replicas: -1\n",
        "zectre.yaml:2:13: `deploy.replicas` takes a whole number from 0 to 1000",
    ),
    (
        "deploy:\n  strategy: { type: canary, weight: 150 }\n",
        "zectre.yaml:2:37: `deploy.strategy.weight` takes a whole number from 1 to 99",
    ),
    (
        "deploy:\n  strategy:\n    type: canary\n    weight: 300\n",
        "zectre.yaml:4:13: `deploy.strategy.weight` takes a whole number from 1 to 99",
    ),
    (
        "deploy:\n  strategy: { type: rolling, max_surge: 9999999999 }\n",
        "zectre.yaml:2:41: `deploy.strategy.max_surge` takes a whole number from 0 to 4294967295",
    ),
    (
        "deploy:\n  max_runtime_secs: 99999999999\n",
        "zectre.yaml:2:21: `deploy.max_runtime_secs` takes a whole number from 1 to 604800",
    ),
    (
        "networking:\n  port: 70000\n",
        "zectre.yaml:2:9: `networking.port` takes a whole number from 1 to 65535",
    ),
    (
        "networking:\n  health_check: { failures: 1.5 }\n",
        "zectre.yaml:2:29: `networking.health_check.failures` takes a whole number from 1 to 100",
    ),
    (
        "deploy:\n  env:\n    A:\n",
        "zectre.yaml:3:6: `deploy.env.A` takes text, and nothing stands here",
    ),
    (
        "name: a\n---\nname: b\n",
        "zectre.yaml:2:1: a second document begins with `---`: a manifest is one document",
    ),
    (
        "# ours\n---\nname: a\n---\n",
        "zectre.yaml:4:1: a second document",
    ),
    (
        "deploy:\n  cold_start: maybe\n",
        "zectre.yaml:2:15: `deploy.cold_start` takes `true` or `false`",
    ),
    (
        "deploy:\n  restart: alway\n",
        "zectre.yaml:2:12: unknown value `alway`; did you mean `always`?",
    ),
    (
        "deploy:\n  strategy: roling\n",
        "zectre.yaml:2:13: unknown value `roling`; did you mean `rolling`?",
    ),
    (
        "deploy:\n  strategy: 7\n",
        "zectre.yaml:2:13: `deploy.strategy` takes a strategy: one of rolling",
    ),
    (
        "deploy:\n  replicas:\n    a: 1\n",
        "zectre.yaml:3:5: `deploy.replicas` takes a single value",
    ),
    (
        "deploy:\n  env:\n    A: [1]\n",
        "zectre.yaml:3:8: `deploy.env.A` takes a single value",
    ),
    ("deploy: 7\n", "zectre.yaml:1:9: `deploy` takes keys with values"),
    (
        "deploy:\n  replicas: 5000\n",
        "zectre.yaml:2:13: `deploy.replicas` takes a whole number from 0 to 1000",
    ),
    (
        "deploy:\n  replicas: 99999999999\n",
        "zectre.yaml:2:13: `deploy.replicas` takes a whole number from 0 to 1000",
    ),
    (
        "networking:\n  health_check: { failures: 0 }\n",
        "zectre.yaml:2:29: `networking.health_check.failures` takes a whole number from 1 to 100",
    ),
    (
        "deploy:\n  progress_deadline: 2h\n",
        "zectre.yaml:2:22: `deploy.progress_deadline`: from 1 to 3600 seconds",
    ),
    (
        "deploy:\n  max_runtime_secs: 0\n",
        "zectre.yaml:2:21: `deploy.max_runtime_secs`: from 1 to 604800 seconds",
    ),
    (
        "networking:\n  health_check: { path: health }\n",
        "zectre.yaml:2:25: `networking.health_check.path`: a path such as `/health`",
    ),
    (
        "name: My Shop\n",
        "zectre.yaml:1:7: `name` takes lower case letters, digits and `-`",
    ),
    (
        "build:\n  source: ../other/main.tish\n",
        "zectre.yaml:2:11: `build.source` names a file inside the project",
    ),
    (
        "build:\n  source: /etc/passwd\n",
        "zectre.yaml:2:11: `build.source` names a file inside the project",
    ),
    (
        "name: a\nname: b\n",
        "zectre.yaml:2:1: the key `name` stands here twice",
    ),
];

#[test]
fn a_mistake_is_shown_with_its_place_and_the_nearest_key() {
    for (text, expected) in MISTAKES {
        let shown = refused(text);
        assert!(
            shown.starts_with(expected),
            "{text}\n  shown:    {shown}\n  expected: {expected}"
        );
    }
}

#[test]
fn a_bad_amount_says_how_to_write_it() {
    let shown = refused("resources:\n  memory: 128MiB\n");
    assert!(shown.starts_with("zectre.yaml:2:11:"), "{shown}");
    assert!(
        shown.contains("`128MiB` is not an amount of memory: write `128Mi`"),
        "{shown}"
    );
    let shown = refused("deploy:\n  idle_timeout: soon\n");
    assert!(
        shown.starts_with("zectre.yaml:2:17:") && shown.contains("write `500ms`"),
        "{shown}"
    );
}

#[test]
fn broken_yaml_is_refused_with_its_line() {
    for (text, line) in [
        ("name: [a\n", 1),
        ("a: b: c\n", 1),
        ("name: shop\n\tdeploy: 1\n", 1),
        ("- a\n- b\n", 1),
    ] {
        let error = Manifest::parse("zectre.yaml", text).expect_err(text);
        assert!(error.line >= line && error.line <= line + 1, "{text}: {error}");
    }
}

#[test]
fn an_alias_bomb_is_refused_and_not_expanded() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        let items = [before.as_str(); 10].join(", ");
        text = format!("{text}a{level}: &a{level} [{items}]\n");
    }
    let shown = refused(&text);
    assert!(shown.contains("repeats itself"), "{shown}");
    let deep = format!("deploy: {}{}", "[".repeat(3_000), "]".repeat(3_000));
    let shown = refused(&deep);
    assert!(shown.contains("nested too deeply"), "{shown}");
}

#[test]
fn package_json_wins_over_build() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("writable");
    assert_eq!(Manifest::load_dir(directory.path()), Ok(Manifest::default()));
    write("zectre.yaml", "build: { source: ./a.tish, features: [fs] }\n");
    write(
        "package.json",
        "{\n  \"name\": \"x\",\n  \"tish\": { \"source\": \"./b.tish\" }\n}\n",
    );
    let manifest = Manifest::load_dir(directory.path()).expect("valid");
    assert_eq!(
        (manifest.entry(), manifest.features().join(",")),
        ("./b.tish", "fs".into())
    );
    write("package.json", "{\n  \"tish\": {\n    \"source\": 7\n  }\n}\n");
    let error = Manifest::load_dir(directory.path())
        .expect_err("a number")
        .to_string();
    assert!(
        error.starts_with("package.json:3:") && error.contains("expected a string"),
        "{error}"
    );
    write(
        "package.json",
        "{\n  \"tish\": {\n    \"source\": \"../../b.tish\"\n  }\n}\n",
    );
    let error = Manifest::load_dir(directory.path())
        .expect_err("outside")
        .to_string();
    assert!(
        error.starts_with("package.json:3:1: `tish.source` names a file inside"),
        "{error}"
    );
}

#[test]
fn a_link_is_not_followed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::os::unix::fs::symlink("/etc/passwd", directory.path().join("zectre.yaml")).expect("a link");
    let error = Manifest::load_dir(directory.path())
        .expect_err("a link")
        .to_string();
    assert!(error.starts_with("zectre.yaml: must be a plain file"), "{error}");
}

#[test]
fn the_committed_schema_is_the_one_made_from_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/zectre.schema.json");
    let made = format!("{:#}\n", json_schema());
    if std::env::var_os("ZECTRE_BLESS").is_some() {
        std::fs::write(&path, &made).expect("writable");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        committed, made,
        "docs/zectre.schema.json is stale: run ZECTRE_BLESS=1 cargo test -p zectre-common schema"
    );
}
