//! How deployments and tasks are told to people: pure, from what the API says.
//!
//! A run to completion (`restart: never`) is a job: it runs and ends, and never "serves", "sleeps" or is "down".

use crate::{error::sentence, terminal_text::harmless};
use zectre_common::{
    spec::{Protocol, RestartPolicy, Strategy, canary_size},
    state::{DeploymentStatus, Health, Reason, TaskState, Wanted},
    wire::{deployment::Deployment, task::Task},
};

/// `1 task`, `3 tasks`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Whether it runs to completion instead of serving.
pub(crate) fn is_job(deployment: &Deployment) -> bool {
    deployment.spec.restart == RestartPolicy::Never
}

/// How its rollout, or its run, went: `succeeded`, `failed (exited)`, `ran to completion`; `canary, 30 %` while it has its
/// share.
pub(crate) fn status(deployment: &Deployment) -> String {
    if let Some(weight) = trial(deployment) {
        return format!("canary, {weight} %");
    }
    if is_job(deployment) && deployment.status == DeploymentStatus::Succeeded {
        return "ran to completion".into();
    }
    // What befell it after it had succeeded belongs to its health; that it was cancelled is what `cancelled` says already.
    let reason = deployment.reason.filter(|reason| {
        deployment.status != DeploymentStatus::Succeeded
            && (deployment.status, *reason) != (DeploymentStatus::Cancelled, Reason::Cancelled)
    });
    with_reason(deployment.status.as_str(), reason)
}

/// The percentage of the requests that a canary has while it is tried.
fn trial(deployment: &Deployment) -> Option<u8> {
    let is_tried = deployment.status == DeploymentStatus::Running
        && deployment.health == Health::Healthy
        && !deployment.current
        && !is_job(deployment);
    match deployment.spec.strategy {
        Strategy::Canary { weight, .. } if is_tried => Some(weight),
        _ => None,
    }
}

/// How many tasks it wants: `4`; of a canary that is tried, `1 of 4`.
pub(crate) fn replicas(deployment: &Deployment) -> String {
    let all = deployment.replicas;
    match trial(deployment) {
        Some(weight) => format!("{} of {}", canary_size(all, weight), all.max(1)),
        None => all.to_string(),
    }
}

/// Why a rollout ended without taking over, in a sentence.
pub(crate) fn ending(deployment: &Deployment) -> Option<String> {
    let printed = match deployment.status {
        DeploymentStatus::Failed => format!(
            "\n`zectre logs --deployment {}` shows what it printed.",
            deployment.version
        ),
        DeploymentStatus::Cancelled => String::new(),
        _ => return None,
    };
    let message = deployment.message.as_deref().unwrap_or("no reason was given");
    Some(format!("v{}: {}{printed}", deployment.version, sentence(message)))
}

/// How it is now; a dash for what isn't to run at all.
pub(crate) fn health(deployment: &Deployment) -> String {
    let over = deployment.status.is_ended() && !deployment.current;
    if is_job(deployment) || over {
        return "-".into();
    }
    let reason = deployment.reason.filter(|_| {
        deployment.status == DeploymentStatus::Succeeded
            && matches!(deployment.health, Health::Degraded | Health::Down)
    });
    with_reason(deployment.health.as_str(), reason)
}

/// What became of a deployment that was waited for: `serves`, `ran to completion`, …
pub(crate) fn outcome(deployment: &Deployment) -> &'static str {
    match deployment.status {
        DeploymentStatus::Succeeded if is_job(deployment) => "ran to completion",
        DeploymentStatus::Succeeded if deployment.health == Health::Asleep => {
            "is ready; it sleeps until its first request"
        }
        DeploymentStatus::Succeeded => "serves",
        _ => "takes a share of the requests; `zectre promote` gives it all",
    }
}

/// Whether it is no place for a browser.
pub(crate) fn speaks_tcp(deployment: &Deployment) -> bool {
    deployment.spec.networking.protocol == Protocol::Tcp
}

/// Where it answers: a URL, host and port for plain TCP, none for a job.
pub(crate) fn url(deployment: &Deployment) -> Option<&str> {
    if is_job(deployment) {
        return None;
    }
    if speaks_tcp(deployment) {
        return deployment.tcp_address.as_deref();
    }
    Some(deployment.url.as_ref().unwrap_or(&deployment.preview_url))
}

/// What a task does: `running`, `draining (superseded)`, `failed (exited)`, `completed`.
pub(crate) fn task_state(task: &Task, of_job: bool) -> String {
    let word = match (task.state, task.wanted) {
        (TaskState::Running, Wanted::Stop) => "draining",
        (TaskState::Pending | TaskState::Starting, Wanted::Stop) => "stopping",
        (TaskState::Stopped, _) if of_job && task.exit_code == Some(0) => return "completed".into(),
        (state, _) => state.as_str(),
    };
    // That it was stopped is what `stopped` says already.
    let reason = task.reason.filter(|reason| *reason != Reason::Stopped);
    with_reason(word, reason)
}

fn with_reason(word: &str, reason: Option<Reason>) -> String {
    reason.map_or_else(|| word.to_owned(), |reason| format!("{word} ({reason})"))
}

/// Why a deployment failed: code, sentence, what else is known, and its last lines; each once.
pub(crate) fn failure(deployment: &Deployment) -> Vec<String> {
    let message = deployment.message.as_deref().unwrap_or("no reason was given");
    let mut lines = vec![format!(
        "version {} {}: {message}",
        deployment.version,
        status(deployment)
    )];
    let Some(evidence) = &deployment.evidence else {
        return lines;
    };
    let is_fresh = |fact: &String| !message.contains(fact.as_str());
    let code = evidence.exit_code.map(|code| format!("code {code}"));
    let known = [
        code.filter(is_fresh).map(|code| format!("exit {code}")),
        evidence
            .signal
            .map(|signal| format!("signal {signal}"))
            .filter(is_fresh),
        evidence.last_probe.clone().filter(is_fresh),
    ];
    let known: Vec<_> = known.into_iter().flatten().collect();
    if !known.is_empty() {
        lines.push(format!("  {}", known.join(", ")));
    }
    // The platform writes its own sentence into the log, too.
    let tail = evidence.log_tail.iter().map(|line| line.message.as_str());
    let tail: Vec<_> = tail.filter(|line| !message.contains(line)).collect();
    if !tail.is_empty() {
        lines.push("  its last lines:".into());
        // A person reads this, on a terminal more often than not.
        lines.extend(tail.iter().map(|line| format!("    {}", harmless(line))));
    }
    lines
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};
    use zectre_common::{
        id::{ApplicationId, DeploymentId, TaskId},
        spec::DeploymentRequest,
    };

    /// A deployment with some fields of its own.
    pub(crate) fn deployment(restart: &str, changes: &Value) -> Deployment {
        let request: DeploymentRequest =
            serde_json::from_value(json!({"restart": restart})).expect("a request");
        let spec = request.resolve(&DeploymentRequest::default()).expect("valid");
        let mut whole = json!({
            "id": DeploymentId::new(), "application_id": ApplicationId::new(), "environment": "production",
            "version": 3, "status": "succeeded", "reason": null, "message": null, "evidence": null,
            "health": "healthy", "current": true, "artifact_id": null, "image": null, "build_id": null,
            "replicas": 1, "idle_timeout_secs": 300, "cold_start_enabled": true, "spec": spec,
            "preview_label": "a", "preview_url": "http://a.test", "url": "http://b.test",
            "created_at": "2026-01-01T00:00:00Z", "finished_at": null,
        });
        let fields = whole.as_object_mut().expect("an object");
        fields.extend(changes.as_object().expect("an object").clone());
        serde_json::from_value(whole).expect("a deployment")
    }

    /// A task in a state.
    pub(crate) fn task(state: &str, wanted: &str, reason: Option<&str>, exit_code: Option<i32>) -> Task {
        let task = json!({
            "id": TaskId::new(), "deployment_id": DeploymentId::new(), "application_id": ApplicationId::new(),
            "slot": 0, "state": state, "wanted": wanted, "reason": reason, "message": null, "node_id": null,
            "node": null, "address": null, "port": null, "healthy": true, "routed": true, "generation": 1,
            "restarts": 0, "exit_code": exit_code, "signal": null, "phases": null,
            "created_at": "2026-01-01T00:00:00Z", "started_at": null, "running_at": null, "finished_at": null,
        });
        serde_json::from_value(task).expect("a task")
    }

    #[test]
    fn a_job_runs_and_never_serves_sleeps_or_is_down() {
        let told = |changes: &Value| {
            let job = deployment("never", changes);
            let words = format!("{} {} {}", status(&job), health(&job), outcome(&job));
            for wrong in ["asleep", "sleeps", "serves", "down", "healthy"] {
                assert!(!words.contains(wrong), "{words}");
            }
            assert_eq!(url(&job), None);
            status(&job)
        };
        assert_eq!(told(&json!({"health": "asleep"})), "ran to completion");
        assert_eq!(told(&json!({"status": "running", "health": "down"})), "running");
        // Its strategy says how a server takes over; it takes no requests to have a share of.
        let mut canary = deployment("never", &json!({"status": "running", "health": "healthy"}));
        canary.spec.strategy = Strategy::Canary {
            weight: 30,
            auto_promote_secs: None,
        };
        assert_eq!(status(&canary), "running");
        let failed = json!({"status": "failed", "reason": "exited", "health": "down"});
        assert_eq!(told(&failed), "failed (exited)");
    }

    #[test]
    fn a_server_s_trouble_stands_where_it_belongs() {
        let told = |changes: &Value| {
            let server = deployment("always", changes);
            (status(&server), health(&server))
        };
        let pair = |status: &str, health: &str| (status.to_owned(), health.to_owned());
        assert_eq!(told(&json!({})), pair("succeeded", "healthy"));
        let looping = json!({"reason": "crash_loop", "health": "down"});
        assert_eq!(told(&looping), pair("succeeded", "down (crash_loop)"));
        let failed = json!({"status": "failed", "reason": "exited", "current": false, "health": "down"});
        assert_eq!(told(&failed), pair("failed (exited)", "-"));
    }

    #[test]
    fn a_canary_has_its_share_until_it_is_current() {
        let told = |changes: &Value| {
            let mut canary = deployment("always", changes);
            canary.spec.strategy = Strategy::Canary {
                weight: 25,
                auto_promote_secs: None,
            };
            (status(&canary), replicas(&canary))
        };
        let pair = |status: &str, replicas: &str| (status.to_owned(), replicas.to_owned());
        let mut tried = json!({"status": "running", "replicas": 4, "current": false});
        assert_eq!(told(&tried), pair("canary, 25 %", "1 of 4"));
        tried["replicas"] = json!(9);
        assert_eq!(told(&tried), pair("canary, 25 %", "3 of 9"));
        tried["current"] = json!(true);
        assert_eq!(told(&tried), pair("running", "9"), "it takes over");
        tried["status"] = json!("succeeded");
        assert_eq!(told(&tried), pair("succeeded", "9"));
    }

    #[test]
    fn what_was_cancelled_says_by_whom_and_says_it_once() {
        let changes = json!({"status": "cancelled", "reason": "cancelled", "current": false,
                             "message": "ann@example.org rolled it back before it had taken over"});
        let cancelled = deployment("always", &changes);
        assert_eq!(status(&cancelled), "cancelled");
        let said = ending(&cancelled).expect("it has ended");
        assert_eq!(
            said,
            "v3: ann@example.org rolled it back before it had taken over."
        );
        let changes = json!({"status": "cancelled", "reason": "superseded"});
        assert_eq!(status(&deployment("always", &changes)), "cancelled (superseded)");
        assert_eq!(ending(&deployment("always", &json!({}))), None);
    }

    #[test]
    fn what_is_to_stop_is_not_called_running() {
        for (state, wanted, reason, exit_code, of_job, says) in [
            ("running", "run", None, None, false, "running"),
            ("running", "stop", Some("stopped"), None, false, "draining"),
            (
                "running",
                "stop",
                Some("superseded"),
                None,
                false,
                "draining (superseded)",
            ),
            ("starting", "stop", Some("idle"), None, false, "stopping (idle)"),
            ("stopping", "stop", Some("stopped"), None, false, "stopping"),
            ("stopped", "stop", Some("stopped"), Some(0), false, "stopped"),
            ("stopped", "run", Some("exited"), Some(0), true, "completed"),
            (
                "pending",
                "run",
                Some("crash_loop"),
                None,
                false,
                "pending (crash_loop)",
            ),
            ("failed", "run", Some("exited"), Some(3), true, "failed (exited)"),
        ] {
            assert_eq!(task_state(&task(state, wanted, reason, exit_code), of_job), says);
        }
    }

    #[test]
    fn a_failure_says_everything_once() {
        let message = "the program ended with code 3 before it was ready";
        let line = |stream: &str, message: &str| json!({"seq": 1, "time": "2026-01-01T00:00:00Z", "stream": stream, "message": message});
        let failed = json!({
            "status": "failed", "reason": "exited", "message": message, "current": false,
            "evidence": {"exit_code": 3, "log_tail": [line("stdout", "bye\u{7}"), line("system", message)]},
        });
        let said = failure(&deployment("always", &failed));
        let expected = [
            "version 3 failed (exited): the program ended with code 3 before it was ready",
            "  its last lines:",
            "    bye\\x07",
        ];
        assert_eq!(said, expected);
        let probed = json!({
            "status": "failed", "reason": "progress_deadline", "message": "0 of 1 tasks were ready after 300 s",
            "evidence": {"last_probe": "GET /health answered 500"},
        });
        let said = failure(&deployment("always", &probed));
        assert_eq!(said[1], "  GET /health answered 500");
    }
}
