//! deploy: from the request, with the artifact in the registry, to the first answer of the new version through the
//! proxy. Goal: at most 250 ms beyond the program's own start.

use crate::{
    native::spawn_to_first_byte,
    phases::PhaseTimes,
    platform::{Bench, DEADLINE},
    report::{Report, Row},
    sample::Samples,
};
use std::time::Instant;
use zectre_testkit::wait_until;

const ROUNDS: usize = 20;

/// Measures each subject.
pub(crate) async fn run() -> Report {
    let bench = Bench::start().await;
    let mut report = Report::new(
        "deploy",
        "POST deployment with the artifact uploaded, until the proxy answers with the new version",
        "goal: ours − bare spawn ≤ 250 ms",
    );
    for (index, subject) in bench.subjects.iter().enumerate() {
        let (app, _) = bench
            .deploy(&format!("deploy-{index}"), subject, Bench::request())
            .await;
        let artifact = app.upload(&subject.program).await;
        let (mut ours, mut bare) = (Samples::default(), Samples::default());
        let mut phases = PhaseTimes::default();
        for _ in 0..ROUNDS {
            bare.push(spawn_to_first_byte(&subject.program));
            let mut request = Bench::request();
            request["artifact_id"] = artifact.as_str().into();
            request["environment"] = "production".into();
            let started = Instant::now();
            let id = app.deploy(request).await;
            wait_until(DEADLINE, "the new version answers", async || {
                bench
                    .http
                    .app(&app.subdomain, "/")
                    .await
                    .text()
                    .contains(&id)
                    .then_some(())
            })
            .await;
            ours.push(started.elapsed());
            app.outcome(&id).await.succeeded();
            for task in app.tasks(&id, &["running"]).await {
                phases.push_task(&task["phases"]);
            }
        }
        report.rows.push(Row::new(subject.name, &ours, &bare));
        report.note(format!(
            "{}: phases of its tasks, p50: {}; the rest is the way there and back, and the rollout's",
            subject.name,
            phases.told()
        ));
    }
    report.note(format!(
        "resident memory of the whole platform beside PostgreSQL: {:.1} MiB",
        bench.resident_mib()
    ));
    report
}
