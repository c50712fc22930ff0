//! A catalog above a cluster: the login of a command line, and what it opens.

use serde_json::{Value, json};
use std::{fs, path::Path, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};
use zectre_e2e::{Catalog, Cli, Settings, Single, server_program};

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

/// Makes an organization at the catalog as whoever is signed in there under `home`.
async fn make_organization(catalog: &Catalog, home: &Path, slug: &str) {
    let refresh = &credentials(home)["catalogs"][catalog.url()]["refresh_token"];
    let body = format!(
        "grant_type=refresh_token&client_id=zectre-cli&refresh_token={}",
        refresh.as_str().expect("text")
    );
    let client = reqwest::Client::new();
    let tokens = client
        .post(format!("{}/oauth/token", catalog.url()))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body);
    let tokens: Value = tokens
        .send()
        .await
        .expect("it answers")
        .json()
        .await
        .expect("JSON");
    let made = client
        .post(format!("{}/api/v1/orgs", catalog.url()))
        .bearer_auth(tokens["access_token"].as_str().expect("a token"))
        .json(&json!({ "slug": slug }));
    assert_eq!(made.send().await.expect("it answers").status(), 201);
    // The command line goes on with the next refresh token, as if it had asked itself.
    let mut stored = credentials(home);
    stored["catalogs"][catalog.url()]["refresh_token"] = tokens["refresh_token"].clone();
    fs::write(home.join("config/zectre/credentials.json"), stored.to_string()).expect("written");
}

fn ada() -> Value {
    json!({"id": 1, "login": "ada", "name": "Ada", "emails": [{"email": "ada@example.test", "primary": true, "verified": true}]})
}

#[tokio::test]
async fn who_signs_in_at_a_catalog_deploys_on_its_cluster() {
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
    make_organization(&catalog, home, "acme").await;

    // The cluster is added first, and trusts the catalog with what came of that.
    let mut settings = Settings::default();
    let api = format!("http://127.0.0.1:{}", settings.api_port);
    let added = cli.run(here, &["clusters", "add", "eu", &api, "--json"]).await;
    let added: Value = serde_json::from_str(added.success()).expect("JSON");
    let audience = added["audience"].as_str().expect("text").to_owned();
    settings.catalog = Some((catalog.url().to_owned(), audience.clone()));
    let platform = Single::start_with(settings).await;
    let listed = cli.run(here, &["clusters", "list"]).await;
    assert!(listed.success().contains("acme/eu") && listed.stdout.contains(&audience));

    let listed = cli.run(here, &["clusters", "list", "--json"]).await;
    serde_json::from_str::<Value>(listed.success()).expect("one document");
    let used = cli.run(here, &["clusters", "use", "eu", "--json"]).await;
    serde_json::from_str::<Value>(used.success()).expect("one document");
    let who = cli.run(here, &["whoami"]).await;
    assert!(
        who.success().contains("acme: owner") && who.stdout.contains(&api),
        "{}",
        who.stdout
    );
    // The organization came with its first member, and a namespace of its name with it.
    fs::write(here.join("zectre.yaml"), "name: shop\nnamespace: acme\n").expect("written");
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
    assert!(platform.http().app(host, "/").await.status.is_success());

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
