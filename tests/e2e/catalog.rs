//! A catalog above a cluster: the login of a command line, and what it opens.

use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Stdio,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};
use zectre_e2e::{Catalog, Cli, Needles, Settings, Single, server_program};
use zectre_testkit::GITHUB_CLIENT_SECRET;

/// `zectre login` with `arguments`, with a browser that goes where it says; how it ended, and what the browser showed.
async fn log_in(catalog: &Catalog, cli: &Cli, here: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let arguments = [&["login"], arguments].concat();
    let mut command = Command::from(cli.command(here, &arguments));
    command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().expect("zectre was built");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let url = loop {
        let line = lines.next_line().await.expect("text").expect("it shows a URL");
        if line.starts_with("http://") {
            break line;
        }
    };
    let shown = catalog.browse(&url).await;
    // Whatever else it says must have a reader.
    while lines.next_line().await.expect("text").is_some() {}
    (child.wait().await.expect("it ends").code(), shown)
}

fn credentials(home: &Path) -> Value {
    let text = fs::read_to_string(home.join("config/zectre/credentials.json")).expect("there are some");
    serde_json::from_str(&text).expect("JSON")
}

/// Commands at a catalog, like those of [`crate::json`], in an order in which each finds what it needs. `TOKEN` is that of the
/// first invitation, which another one accepts.
pub(crate) const WALK: &[(&str, &str, &str)] = &[
    ("catalog orgs create", "acme --name Acme", ""),
    ("catalog orgs list", "", ""),
    ("catalog invitations create", "bob@example.test --role viewer", ""),
    ("catalog invitations create", "eve@example.test", ""),
    ("catalog invitations list", "", ""),
    ("catalog invitations revoke", "eve@example.test", ""),
    ("catalog invitations accept", "", "TOKEN"),
    ("catalog members list", "--org acme", ""),
    ("catalog members role", "bob@example.test developer", ""),
    ("catalog members rm", "bob", ""),
    ("clusters add", "eu https://eu.acme.test", ""),
    ("clusters list", "", ""),
    ("clusters use", "acme/eu", ""),
    ("clusters rm", "eu --yes", ""),
    ("catalog events", "", ""),
    ("catalog events", "--org acme", ""),
    ("catalog orgs delete", "acme --yes", ""),
];

/// A cluster of `acme`, with its API's address: added first, it trusts the catalog with what came of that.
async fn cluster(catalog: &Catalog, cli: &Cli, here: &Path, name: &str) -> (Single, String) {
    let mut settings = Settings::default();
    let api = format!("http://127.0.0.1:{}", settings.api_port);
    let added = cli.run(here, &["clusters", "add", name, &api, "--json"]).await;
    let added: Value = serde_json::from_str(added.success()).expect("JSON");
    let audience = added["audience"].as_str().expect("text").to_owned();
    settings.catalog = Some((catalog.url().to_owned(), audience));
    (Single::start_with(settings).await, api)
}

/// What lets its holder in: GitHub's secret of the catalog, and what the command line keeps.
fn tokens(stored: &str) -> BTreeMap<&'static str, String> {
    let field = |name: &str| {
        let (_, rest) = stored.split_once(&format!("\"{name}\":\"")).expect("it is kept");
        rest.split('"').next().unwrap_or_default().to_owned()
    };
    BTreeMap::from([
        ("GitHub's secret", GITHUB_CLIENT_SECRET.to_owned()),
        ("the refresh token", field("refresh_token")),
    ])
}

fn ada() -> Value {
    person(1, "ada")
}

fn person(id: u32, login: &str) -> Value {
    let email = format!("{login}@example.test");
    json!({"id": id, "login": login, "name": login, "emails": [{"email": email, "primary": true, "verified": true}]})
}

#[tokio::test]
async fn who_signs_in_at_a_catalog_deploys_on_its_second_cluster() {
    let catalog = Catalog::start().await;
    catalog.visitor(&ada()).await;
    let home = tempfile::tempdir().expect("a directory");
    let (home, here) = (home.path(), home.path());
    let cli = Cli::new(home);
    let login = ["--catalog", catalog.url()];
    let (code, shown) = log_in(&catalog, &cli, here, &login).await;
    assert_eq!(code, Some(0));
    assert!(shown.contains("You are signed in"), "{shown}");
    let who = cli.run(here, &["whoami"]).await;
    assert!(who.success().contains("ada@example.test"), "{}", who.stdout);
    cli.run(here, &["catalog", "orgs", "create", "acme"])
        .await
        .success();

    let (_first, _) = cluster(&catalog, &cli, here, "eu").await;
    let (second, api) = cluster(&catalog, &cli, here, "us").await;
    let listed = cli.run(here, &["clusters", "list"]).await;
    assert!(listed.success().contains("acme/eu") && listed.stdout.contains("acme/us"));
    // One sign-in, whichever is used; what is linked here is linked for each.
    fs::write(here.join("zectre.yaml"), "name: shop\nnamespace: acme\n").expect("written");
    for name in ["eu", "us"] {
        let used = cli.run(here, &["clusters", "use", name, "--json"]).await;
        let used: Value = serde_json::from_str(used.success()).expect("one document");
        let who = cli.run(here, &["whoami"]).await;
        let address = used["api_base_url"].as_str().expect("text");
        assert!(
            who.success().contains("acme: owner") && who.stdout.contains(address),
            "{}",
            who.stdout
        );
        let apps = cli.run(here, &["projects", "list", "--json"]).await;
        assert_eq!(apps.success().trim(), "[]", "each has its own");
        cli.run(here, &["projects", "create", "shop", "--namespace", "acme"])
            .await
            .success();
    }
    // The organization came with its first member, and a namespace of its name with it.
    let server = server_program();
    let deploy = [
        "deploy",
        "--artifact",
        server.to_str().expect("a plain path"),
        "--prod",
        "--wait",
    ];
    cli.run(here, &deploy).await.success();
    let host = "shop-acme.zectre.localhost";
    assert!(second.http().app(host, "/").await.status.is_success());

    // Nothing that lets anyone in was written to its log, in whatever form.
    let stored = credentials(home).to_string();
    let needles = Needles::new(&tokens(&stored));
    assert!(!needles.in_bytes(stored.as_bytes()).is_empty());
    let log = catalog.log();
    assert!(log.contains("DEBUG"), "it tells everything:\n{log}");
    assert_eq!(needles.in_bytes(log.as_bytes()), BTreeSet::new());

    // Signed out, it is signed out of both, and a copy of the refresh token is worth nothing.
    let copy = credentials(home)["catalogs"].clone();
    cli.run(here, &["logout"]).await.success();
    let who = cli.run(here, &["whoami", "--api-url", &api]).await;
    assert_eq!(who.code, 3, "{}", who.stderr);
    let mut stored = credentials(home);
    stored["catalogs"] = copy;
    stored["catalog"] = json!(catalog.url());
    fs::write(home.join("config/zectre/credentials.json"), stored.to_string()).expect("written");
    assert_eq!(cli.run(here, &["clusters", "list"]).await.code, 3);
}

#[tokio::test]
async fn a_cluster_with_a_catalog_has_logins_of_its_own_too() {
    let catalog = Catalog::start().await;
    let settings = Settings {
        catalog: Some((catalog.url().to_owned(), "a-cluster".into())),
        ..Settings::default()
    };
    let platform = Single::start_with(settings).await;
    let (admin, here) = (platform.cli(), platform.directory().to_owned());
    let add = ["users", "add", "ann@example.org", "--password-stdin"];
    admin.run_with(&here, &add, "correct horse\n").await.success();
    let api = format!("http://127.0.0.1:{}", platform.settings().api_port);
    // Both are known, and the catalog is where `zectre login` would go.
    let at = |place: &str| {
        Cli::new(&here.join(place))
            .env("ZECTRE_API_URL", &api)
            .env("ZECTRE_CATALOG_URL", catalog.url())
    };
    let (home, pipeline) = (at("home"), at("pipeline"));
    let by_password = ["login", "--legacy-platform-login"];
    let wrong = home
        .run_with(&here, &by_password, "ann@example.org\nwrong horse\n")
        .await;
    assert_eq!(wrong.code, 3, "{}", wrong.stderr);
    home.run_with(&here, &by_password, "ann@example.org\ncorrect horse\n")
        .await
        .success();
    let who = home.run(&here, &["whoami"]).await;
    assert!(
        who.success().contains("ann@example.org") && who.stdout.contains(&api),
        "{}",
        who.stdout
    );

    let key = home
        .run(&here, &["tokens", "create", "ci"])
        .await
        .success()
        .to_owned();
    let with_key = ["login", "--with-key"];
    let wrong = pipeline.run_with(&here, &with_key, "zk_of_nobody\n").await;
    assert_ne!(wrong.code, 0);
    assert!(
        wrong.stderr.contains("does not know this API key"),
        "{}",
        wrong.stderr
    );
    pipeline
        .run_with(&here, &with_key, &format!("{}\n", key.trim()))
        .await
        .success();
    let who = pipeline.run(&here, &["whoami"]).await;
    assert!(who.success().contains("ann@example.org"), "{}", who.stdout);
    // Logging out ends the login, and leaves the key to whoever made it.
    home.run(&here, &["logout"]).await.success();
    assert_eq!(home.run(&here, &["projects", "list"]).await.code, 3);
    pipeline.run(&here, &["projects", "list"]).await.success();
}

#[tokio::test]
async fn commands_at_once_refresh_one_after_the_other() {
    let catalog = Catalog::start().await;
    catalog.visitor(&ada()).await;
    let home = tempfile::tempdir().expect("a directory");
    let (cli, here) = (Cli::new(home.path()), home.path());
    let (code, _) = log_in(&catalog, &cli, here, &["--catalog", catalog.url()]).await;
    assert_eq!(code, Some(0));
    let list = ["clusters", "list"];
    let all = tokio::join!(
        cli.run(here, &list),
        cli.run(here, &list),
        cli.run(here, &list),
        cli.run(here, &list),
    );
    for one in [all.0, all.1, all.2, all.3] {
        one.success();
    }
    // Who says no in the browser is told so here, with what to do.
    catalog.visitor(&Value::Null).await;
    let (code, shown) = log_in(&catalog, &cli, here, &["--catalog", catalog.url()]).await;
    assert_eq!(code, Some(3));
    assert!(shown.contains("You are not signed in"), "{shown}");
    cli.run(here, &list).await.success();
}

#[tokio::test]
async fn an_organization_is_kept_from_the_command_line() {
    let catalog = Catalog::start().await;
    let homes = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let [ada, bob] = [0, 1].map(|place: usize| (Cli::new(homes[place].path()), homes[place].path()));
    for ((cli, here), person) in [(&ada, person(1, "ada")), (&bob, person(2, "bob"))] {
        catalog.visitor(&person).await;
        let (code, _) = log_in(&catalog, cli, here, &["--catalog", catalog.url()]).await;
        assert_eq!(code, Some(0));
    }
    let mut token: Option<String> = None;
    for (name, arguments, input) in WALK {
        let is_accepted = *input == "TOKEN";
        let (cli, here) = if is_accepted { &bob } else { &ada };
        let input: &str = if is_accepted {
            token.as_deref().unwrap_or_default()
        } else {
            input
        };
        let words = name.split(' ').chain(arguments.split_whitespace());
        let arguments: Vec<&str> = words.chain(["--json"]).collect();
        let output = cli.run_with(here, &arguments, input).await;
        let document: Value = serde_json::from_str(output.success()).expect("one document");
        if let Some(shown) = document.get("token").filter(|_| token.is_none()) {
            token = Some(format!("{}\n", shown.as_str().expect("text")));
        }
        if is_accepted {
            // A viewer sees who is there, and invites nobody; who isn't there is told so, and nothing goes without a word.
            let (cli, here) = &bob;
            let listed = cli.run(here, &["catalog", "members", "list"]).await;
            assert!(listed.success().contains("ada@example.test"), "{}", listed.stdout);
            for (command, code) in [
                ("catalog invitations list --org acme", 3),
                ("catalog invitations list", 2),
                ("catalog members list --org nobodys", 4),
                ("catalog members rm eve", 4),
                ("catalog orgs delete acme", 2),
            ] {
                let arguments: Vec<&str> = command.split(' ').collect();
                assert_eq!(cli.run(here, &arguments).await.code, code, "{command}");
            }
        }
    }
    let (cli, here) = &bob;
    let listed = cli.run(here, &["catalog", "orgs", "list", "--json"]).await;
    assert_eq!(listed.success().trim(), "[]");
}
