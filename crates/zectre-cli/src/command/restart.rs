//! `zectre restart`: new tasks of the same version take over from the old ones.

use crate::{
    args::EnvironmentArgs,
    command::{
        begun::{Begun, Work},
        rollout::{refuse_if_left, refuse_job, show},
        wait,
    },
    context::Context,
    describe,
    error::CliError,
    output::Shown,
    project,
};
use std::collections::HashSet;
use zectre_client::collect;
use zectre_common::{
    id::{DeploymentId, TaskId},
    state::{Health, Reason, TaskState, Wanted},
    wire::{deployment::Deployment, task::Task},
};

/// So many failures of what a restart started are enough, as they are of a deployment.
const FAILURES_MAX: usize = 3;

pub(crate) async fn restart(
    args: &EnvironmentArgs,
    context: &Context,
    begun: &Begun,
) -> Result<Shown, CliError> {
    let (app, _, deployment) = project::serving(context, args).await?;
    refuse_job(&app, &deployment, "`zectre deploy` runs it again")?;
    let known = tasks(context, deployment.id).await?;
    let old = live(&known, is_wanted);
    begun.asks(Work::Restart);
    let accepted = context.client.restart(deployment.id).await?;
    let name = format!("{} ({})", app.name, accepted.environment);
    if accepted.health == Health::Asleep {
        context.output.say(format!(
            "{name} sleeps: there is nothing to replace, and the next request starts it anew."
        ));
        return Ok(show(context, &accepted));
    }
    begun.accepted(Work::Restart, &accepted);
    let mut progress = context.output.progress(format!("Restarting {name}"));
    let is_done = async |now: &Deployment| {
        refuse_if_left(&app, &accepted, now)?;
        let all = tasks(context, now.id).await?;
        if let Some(why) = given_up(&known, &all) {
            return Err(CliError::DeploymentFailed(not_restarted(now, &why)));
        }
        if let Some(why) = left_alone(&known, &all) {
            return Err(CliError::DeploymentFailed(not_replaced(now, &why)));
        }
        Ok(old.is_disjoint(&live(&all, |_| true)) && matches!(now.health, Health::Healthy | Health::Asleep))
    };
    let now = wait::until(context, accepted.clone(), &mut progress, is_done).await?;
    let replaced = describe::counted(old.len(), "task");
    progress.done(&format!("{name} has replaced {replaced}"));
    Ok(show(context, &now))
}

async fn tasks(context: &Context, id: DeploymentId) -> Result<Vec<Task>, CliError> {
    Ok(collect(async |paging| context.client.deployment_tasks(id, paging).await).await?)
}

/// Those that pass a test, of the tasks that have not ended.
fn live(tasks: &[Task], is_meant: fn(&Task) -> bool) -> HashSet<TaskId> {
    let live = tasks
        .iter()
        .filter(|task| !task.state.is_ended() && is_meant(task));
    live.map(|task| task.id).collect()
}

/// Why a restart leads nowhere, if it does: what it started fails again and again. Only what is not among the tasks `known` before
/// counts: a program may be restarted because it crashed.
fn given_up(known: &[Task], now: &[Task]) -> Option<String> {
    let known: HashSet<TaskId> = known.iter().map(|task| task.id).collect();
    let started = || now.iter().filter(|task| !known.contains(&task.id));
    let failed = started().filter(|task| task.state == TaskState::Failed).count();
    let pauses = |task: &&Task| task.state == TaskState::Pending && task.reason == Some(Reason::CrashLoop);
    let pausing = started().find(pauses)?;
    (failed >= FAILURES_MAX)
        .then(|| pausing.message.clone())
        .flatten()
}

/// Why nothing takes over, if so: all that the restart started has ended, one by a failure, and what it was to replace is still there. That
/// goes on serving, and nothing is started for it again.
fn left_alone(known: &[Task], now: &[Task]) -> Option<String> {
    let known: HashSet<TaskId> = known.iter().map(|task| task.id).collect();
    let (old, started): (Vec<&Task>, Vec<&Task>) = now.iter().partition(|task| known.contains(&task.id));
    let stays = old.iter().any(|task| !task.state.is_ended() && is_wanted(task));
    let failed = started.iter().find(|task| task.state == TaskState::Failed)?;
    let is_over = started.iter().all(|task| task.state.is_ended());
    let why = failed
        .message
        .clone()
        .unwrap_or_else(|| "its new task failed".into());
    (stays && is_over).then_some(why)
}

fn not_replaced(deployment: &Deployment, why: &str) -> String {
    let version = deployment.version;
    format!(
        "version {version} was not restarted: {why}\nWhat ran before goes on serving. `zectre logs --deployment {version}` shows what the new \
         task printed; correct that (`zectre env list`), and run `zectre restart` again."
    )
}

fn not_restarted(deployment: &Deployment, why: &str) -> String {
    let mut lines = describe::failure(deployment);
    lines[0] = format!("version {} does not keep running: {why}", deployment.version);
    lines.push(format!(
        "The platform goes on trying. `zectre logs --deployment {}` shows all it printed.",
        deployment.version
    ));
    lines.join("\n")
}

/// A task that only drains (after a scaling, say) is on its way out by itself, and has none to take its place.
fn is_wanted(task: &Task) -> bool {
    task.wanted == Wanted::Run
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe::tests::{deployment, task};
    use serde_json::json;

    #[test]
    fn a_restart_is_given_up_once_what_it_started_is_in_a_crash_loop() {
        let failed = || task("failed", "stop", Some("exited"), Some(3));
        let mut pausing = task("pending", "run", Some("crash_loop"), None);
        pausing.message = Some("its last 3 tasks failed one after the other".into());
        let known = vec![failed(), failed(), failed(), pausing.clone()];
        let with = |more: Vec<Task>| [known.clone(), more].concat();
        assert_eq!(given_up(&known, &known), None, "that was so before");
        assert_eq!(given_up(&known, &with(vec![failed(), failed(), failed()])), None);
        let mut next = pausing.clone();
        next.id = TaskId::new();
        assert_eq!(given_up(&known, &with(vec![failed(), next.clone()])), None);
        let why = given_up(&known, &with(vec![failed(), failed(), failed(), next]));
        assert_eq!(why, pausing.message);
        let looping = deployment(
            "always",
            &json!({"status": "succeeded", "reason": "crash_loop", "message": "3 tasks failed", "evidence":
                {"task_id": TaskId::new(), "exit_code": 3, "log_tail": []}}),
        );
        let said = not_restarted(&looping, &why.expect("it is"));
        assert!(
            said.contains("does not keep running: its last 3 tasks") && said.contains("exit code 3"),
            "{said}"
        );
    }

    #[test]
    fn a_restart_of_which_nothing_is_left_is_given_up_while_what_ran_before_serves() {
        let old = task("running", "run", None, None);
        let mut failed = task("failed", "stop", Some("exited"), Some(3));
        failed.message = Some("the program ended with code 3".into());
        let known = vec![old.clone()];
        let with = |more: &[Task]| [known.clone(), more.to_vec()].concat();
        assert_eq!(left_alone(&known, &known), None, "nothing has begun yet");
        let (next, ready) = (
            task("pending", "run", None, None),
            task("running", "run", None, None),
        );
        assert_eq!(
            left_alone(&known, &with(&[failed.clone(), next])),
            None,
            "one is to come"
        );
        assert_eq!(left_alone(&known, &with(&[failed.clone(), ready])), None);
        let why = left_alone(&known, &with(std::slice::from_ref(&failed)));
        assert_eq!(why, failed.message);
        // Nothing serves any more: the platform goes on trying.
        let mut gone = old;
        gone.state = TaskState::Failed;
        assert_eq!(left_alone(&known, &[gone, failed]), None);
    }
}
