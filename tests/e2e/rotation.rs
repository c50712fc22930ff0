//! The master keys are rotated under running daemons, by a command that is killed on its way.

use reqwest::Method;
use serde_json::{Value, json};
use std::{fs, process::Stdio, time::Duration};
use zectre_e2e::{App, Daemons, server_program};
use zectre_testkit::wait_until;

#[tokio::test]
async fn keys_rotate_under_running_daemons_and_a_killed_rotation_goes_on() {
    let platform = Daemons::start().await;
    let (http, cli, here) = (platform.http(), platform.cli(), platform.directory().to_owned());
    let app = App::create(&http, "sealed").await;
    let secret = json!({"value": "hunter2", "secret": true});
    let set = http
        .send(Method::PUT, &format!("/apps/{}/env/SECRET", app.id), secret)
        .await;
    set.expect_ok();
    let deployment = app.deploy_program(&server_program(), json!({})).await.succeeded();
    let config = here.join("config.toml");
    let keys = |command: &'static str| {
        let config = config.to_str().expect("a plain path").to_owned();
        [
            "keys".to_owned(),
            command.to_owned(),
            "--json".to_owned(),
            "--config".to_owned(),
            config,
        ]
    };
    let run = async |command: &'static str| {
        let arguments = keys(command);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = cli.run(&here, &arguments).await;
        serde_json::from_str::<Value>(output.success()).expect("JSON")
    };
    let before = fs::read_to_string(here.join("master")).expect("it is ours");

    let arguments = keys("rotate");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut killed = cli.command(&here, &arguments);
    let mut killed = killed
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("zectre was built");
    wait_until(Duration::from_secs(60), "the new key seals", async || {
        let file = fs::read_to_string(here.join("master")).expect("it is whole");
        (file.lines().count() == 2).then_some(())
    })
    .await;
    killed.kill().expect("it is ours");
    killed.wait().expect("it ends");
    assert_eq!(run("list").await.as_array().map(Vec::len), Some(2));

    // The scheduler opens what is sealed with either key.
    http.post(&format!("/deployments/{}/restart", deployment.id()), json!({}))
        .await
        .expect(202);
    let rotated = run("rotate").await;
    assert_eq!(
        (&rotated["lost"], rotated["retired"].as_array().map(Vec::len)),
        (&json!([]), Some(1))
    );
    let after = fs::read_to_string(here.join("master")).expect("it is ours");
    assert!(
        after.lines().count() == 1 && !after.contains(before.trim()),
        "the old key is gone"
    );
    let again = app.deploy_program(&server_program(), json!({})).await.succeeded();
    app.wait_running(again.id(), 1).await;
    let environment = http.app(&app.subdomain, "/env").await.text();
    assert!(environment.contains("SECRET=hunter2"), "{environment}");
    assert!(http.get("/events?action=keys.rotated").await.expect(200)["total"] != 0);
}
