//! `zectre logs`: what the program printed, of all replicas together.

mod merge;

use crate::{
    args::LogsArgs,
    context::Context,
    error::{CliError, sentence},
    output::Shown,
    project,
    table::short,
    terminal_text::harmless,
};
use merge::Merge;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io::{IsTerminal, stdout},
    time::Instant,
};
use tokio::time::sleep_until;
use zectre_client::{EventStream, LogQuery, Paging, collect};
use zectre_common::{
    id::TaskId,
    time::Time,
    wire::{
        deployment::Deployment,
        log::{LogLine, Stream, TaskLogLine},
        task::Task,
    },
};

/// A line, with its task where several share the output.
trait Line: Serialize + DeserializeOwned {
    fn parts(&self) -> (Option<TaskId>, &LogLine);
}

impl Line for LogLine {
    fn parts(&self) -> (Option<TaskId>, &LogLine) {
        (None, self)
    }
}

impl Line for TaskLogLine {
    fn parts(&self) -> (Option<TaskId>, &LogLine) {
        (Some(self.task_id), &self.line)
    }
}

pub(crate) async fn run(args: &LogsArgs, context: &Context) -> Result<Shown, CliError> {
    let query = LogQuery {
        tail: Some(args.tail),
    };
    let client = &context.client;
    if let Some(text) = &args.task {
        let task = task(context, args, text).await?;
        return if args.follow {
            follow(context, client.task_log_stream(task, query), BTreeSet::new()).await
        } else {
            Ok(print_all(context, &client.task_logs(task, query).await?))
        };
    }
    let deployment = deployment(context, args).await?;
    if args.follow {
        let stream = client.deployment_log_stream(deployment.id, query);
        return follow(context, stream, tasks_of(context, &deployment).await?).await;
    }
    let lines = client.deployment_logs(deployment.id, query).await?;
    if lines.is_empty() {
        context.output.say(silence(context, &deployment).await?);
    }
    Ok(print_all(context, &in_order(lines)))
}

/// Why there is nothing to show: it said nothing, or nothing of it ever ran.
async fn silence(context: &Context, deployment: &Deployment) -> Result<String, CliError> {
    let version = deployment.version;
    let tasks = context
        .client
        .deployment_tasks(deployment.id, Paging::default())
        .await?;
    if tasks.data.iter().any(|task| task.started_at.is_some()) {
        return Ok(format!("Version {version} has printed nothing."));
    }
    let why = match &deployment.message {
        Some(why) => format!(": {}", sentence(why)),
        None => ".".into(),
    };
    let build = if deployment.build_id.is_some() {
        ", `zectre builds` its build"
    } else {
        ""
    };
    Ok(format!(
        "Nothing of version {version} has run{why} `zectre status` shows how it stands{build}."
    ))
}

/// Lines arrive in batches, each from one replica: here they stand in the order in which they were printed. Those of one
/// replica keep theirs, whatever its node's clock did meanwhile.
fn in_order(lines: Vec<TaskLogLine>) -> Vec<TaskLogLine> {
    let mut newest: BTreeMap<TaskId, Time> = BTreeMap::new();
    let mut timed: Vec<(Time, TaskLogLine)> = lines
        .into_iter()
        .map(|one| {
            let newest = newest.entry(one.task_id).or_insert(one.line.time);
            *newest = one.line.time.max(*newest);
            (*newest, one)
        })
        .collect();
    timed.sort_by_key(|(time, _)| *time);
    timed.into_iter().map(|(_, one)| one).collect()
}

async fn deployment(context: &Context, args: &LogsArgs) -> Result<Deployment, CliError> {
    match &args.deployment {
        Some(text) => {
            let app = project::find(context, &args.environment.project).await?;
            project::deployment(context, &app, text).await
        }
        None => project::serving_or_newest(context, &args.environment).await,
    }
}

/// A task by its id, or by the end of it as `zectre ps` shows it.
async fn task(context: &Context, args: &LogsArgs, text: &str) -> Result<TaskId, CliError> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let app = project::find(context, &args.environment.project).await?;
    for deployment in context.client.deployments(app.id, Paging::default()).await?.data {
        let tasks: Vec<Task> =
            collect(async |paging| context.client.deployment_tasks(deployment.id, paging).await).await?;
        if let Some(task) = tasks
            .iter()
            .find(|task| text.len() >= 4 && task.id.to_string().ends_with(text))
        {
            return Ok(task.id);
        }
    }
    Err(CliError::NotFound(format!(
        "{} has no task `{text}`. `zectre ps --all` shows its tasks.",
        app.name
    )))
}

fn print_all<L: Line>(context: &Context, lines: &[L]) -> Shown {
    context.output.value(&lines, |lines| {
        let tasks: BTreeSet<_> = lines.iter().filter_map(|line| line.parts().0).collect();
        for line in *lines {
            context.output.data(shown(line, tasks.len() > 1));
        }
    })
}

/// The tasks of a deployment that have printed something, or may: with several of them the first line already says whose
/// it is.
async fn tasks_of(context: &Context, deployment: &Deployment) -> Result<BTreeSet<TaskId>, CliError> {
    let all: Vec<Task> =
        collect(async |paging| context.client.deployment_tasks(deployment.id, paging).await).await?;
    let may_print = |task: &&Task| task.started_at.is_some() || !task.state.is_ended();
    Ok(all.iter().filter(may_print).map(|task| task.id).collect())
}

/// Shows lines as they come; `tasks` are those that are known to share the output.
async fn follow<L: Line>(
    context: &Context,
    mut stream: EventStream<L>,
    mut tasks: BTreeSet<TaskId>,
) -> Result<Shown, CliError> {
    let mut merge = Merge::new();
    let mut print = |lines: Vec<L>| {
        for line in lines {
            tasks.extend(line.parts().0);
            context.output.item(&line, |line| shown(line, tasks.len() > 1));
        }
    };
    loop {
        let line = {
            let mut next = std::pin::pin!(stream.next());
            loop {
                let due = merge.next_due();
                tokio::select! {
                    line = &mut next => break line,
                    () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                        print(merge.due(Instant::now()));
                    }
                }
            }
        };
        let Ok(Some(line)) = line else {
            print(merge.finish());
            return line.map(|_| context.output.stream_ended()).map_err(Into::into);
        };
        let (task, parts) = line.parts();
        let time = parts.time;
        merge.push(task, time, line, Instant::now());
        print(merge.due(Instant::now()));
    }
}

/// A line, with its task in front once there are several.
fn shown<L: Line>(line: &L, several: bool) -> String {
    let (task, line) = line.parts();
    let task = task
        .filter(|_| several)
        .map(|id| format!("[{}] ", short(&id)))
        .unwrap_or_default();
    let platform = if line.stream == Stream::System {
        "(zectre) "
    } else {
        ""
    };
    // A file or another program gets what was printed, to the byte.
    let message = if stdout().is_terminal() {
        harmless(&line.message)
    } else {
        Cow::Borrowed(line.message.as_str())
    };
    format!("{task}{platform}{message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_merged_by_time_and_each_keeps_its_order() {
        let (a, b) = (TaskId::new(), TaskId::new());
        let line = |task_id, seq, ms| TaskLogLine {
            task_id,
            line: LogLine {
                seq,
                time: Time::from_unix_ms(ms),
                stream: Stream::Stdout,
                message: String::new(),
            },
        };
        // As they arrived: a batch of each, and the clock of the first one's node went back in between.
        let arrived = vec![
            line(a, 1, 10),
            line(a, 2, 30),
            line(a, 3, 20),
            line(b, 1, 15),
            line(b, 2, 25),
            line(b, 3, 40),
        ];
        let got: Vec<_> = in_order(arrived)
            .into_iter()
            .map(|one| (one.task_id == a, one.line.seq))
            .collect();
        assert_eq!(
            got,
            [
                (true, 1),
                (false, 1),
                (false, 2),
                (true, 2),
                (true, 3),
                (false, 3)
            ]
        );
    }
}
