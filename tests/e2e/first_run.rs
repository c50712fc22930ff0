//! `cargo xtask up`: from a checkout to a program answering at a URL, and fast the second time.

use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Instant};
use zectre_e2e::{Detached, Settings};

#[tokio::test]
async fn one_command_leads_from_a_checkout_to_a_served_url() {
    let directory = tempfile::Builder::new()
        .prefix("zectre-first-")
        .tempdir()
        .expect("a directory can be made");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let settings = Settings::default();
    let detached = Detached::new(directory.path(), settings.clone());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the checkout");
    let run = || {
        let mut command = Command::new("cargo");
        command
            .current_dir(root)
            .args(["xtask", "up", "--dev", "--data-dir"])
            .arg(directory.path().join("platform"));
        detached.apply(&mut command);
        let started = Instant::now();
        let output = command.output().expect("cargo is installed");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{said}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        (said, started.elapsed())
    };
    let (said, _) = run();
    for url in ["hello-default.zectre.localhost", "/docs", "preview"] {
        assert!(said.contains(url), "it prints {url}: {said}");
    }
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let get = client
        .get(format!("http://127.0.0.1:{}/", settings.proxy_port))
        .header("host", "hello-default.zectre.localhost");
    let response = get.send().await.expect("the proxy answers");
    assert_eq!(response.status(), 200);
    let docs = client
        .get(format!("http://127.0.0.1:{}/docs", settings.api_port))
        .send()
        .await
        .expect("the API answers");
    assert_eq!(docs.status(), 200);

    // The second run finds everything: the platform, the project, the data.
    let hello = async || {
        let status = detached
            .command(&["status", "--project", "hello", "--json"])
            .await;
        let status: Value = serde_json::from_str(status.success()).expect("JSON");
        let newest = status["deployments"][0]["version"].as_u64();
        (status["project"]["id"].clone(), newest.expect("a version"))
    };
    let (id, version) = hello().await;
    let (said, _) = run();
    assert!(said.contains("hello-default.zectre.localhost"), "{said}");
    assert_eq!(hello().await, (id, version + 1));
    detached.run(&["down"]).await.success();
}
