//! What the lists of the command hold when there is much to list.

use serde_json::json;
use zectre_e2e::{App, Daemons, server_program};

/// Somebody asked for its preview again.
#[tokio::test]
async fn what_runs_is_listed_however_many_versions_came_after_it() {
    const LATER: usize = 20;
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "old").await;
    let artifact = app.upload(&server_program()).await;
    let deploy = async || {
        let request = json!({"artifact_id": artifact, "environment": "production"});
        let id = app.deploy(request).await;
        app.outcome(&id).await.succeeded();
        id
    };
    let first = deploy().await;
    for _ in 0..LATER {
        deploy().await;
    }
    http.post(&format!("/deployments/{first}/wake"), json!({}))
        .await
        .expect_ok();
    app.wait_running(&first, 1).await;
    let zectre = async |words: &[&str]| platform.cli().run(platform.directory(), words).await;
    let listed = zectre(&["ps", "--project", "old"]).await;
    assert!(listed.success().contains("  v1  "), "{}", listed.stdout);
    let status = zectre(&["status", "--project", "old"]).await;
    status.success();
    let more = format!("`zectre status --all` shows {} versions more", LATER + 1 - 5);
    assert!(status.stderr.contains(&more), "{}", status.stderr);
    let all = zectre(&["status", "--project", "old", "--all"]).await;
    assert!(all.success().contains("  v1 "), "{}", all.stdout);
}
