//! `zectre nodes …`

use crate::{
    args::NodesCommand,
    command::interrupted,
    context::Context,
    error::CliError,
    output::Shown,
    progress::Progress,
    prompt,
    table::{Table, age},
};
use std::{cell::Cell, convert::Infallible, time::Duration};
use zectre_client::collect;
use zectre_common::{
    id::NodeId,
    state::{Eligibility, NodeStatus},
    wire::node::Node,
};

/// How long the API waits for a drained node to be empty.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a draining node is looked at meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) async fn run(command: &NodesCommand, context: &Context) -> Result<Shown, CliError> {
    let client = &context.client;
    match command {
        NodesCommand::List => list(context).await,
        NodesCommand::Rm { node, yes } => remove(context, node, *yes).await,
        NodesCommand::Join => join(context).await,
        NodesCommand::Drain { node, wait: true } => drain(context, node).await,
        NodesCommand::Drain { node, wait: false } => {
            let node = client.drain(find(context, node).await?, None).await?;
            Ok(show(context, &node))
        }
        NodesCommand::Cordon { node } => {
            let node = client.cordon(find(context, node).await?).await?;
            Ok(show(context, &node))
        }
        NodesCommand::Uncordon { node } => {
            let node = client.uncordon(find(context, node).await?).await?;
            Ok(show(context, &node))
        }
    }
}

async fn find(context: &Context, text: &str) -> Result<NodeId, CliError> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let nodes = collect(async |paging| context.client.nodes(paging).await).await?;
    let node = nodes.iter().find(|node| node.name == text);
    node.map(|node| node.id).ok_or_else(|| {
        CliError::NotFound(format!(
            "there is no node `{text}`. `zectre nodes list` shows them."
        ))
    })
}

/// Has the platform forget a node, which it refuses as long as tasks run there.
async fn remove(context: &Context, text: &str, yes: bool) -> Result<Shown, CliError> {
    let node = context.client.node(find(context, text).await?).await?;
    let name = &node.name;
    if !yes && !prompt::confirm(&format!("Forget the node {name}?")).await? {
        return Err(CliError::Usage(format!(
            "{name} was not removed. Add --yes to remove it without a question."
        )));
    }
    context.client.delete_node(node.id).await?;
    let remark = format!(
        "Removed {name}. An agent that still runs there is refused until it joins with a token of `zectre nodes join`"
    );
    Ok(context.output.done(&node, remark))
}

/// Drains and waits until nothing runs there, or until Ctrl-C.
async fn drain(context: &Context, name: &str) -> Result<Shown, CliError> {
    let asked = Cell::new(false);
    tokio::select! {
        biased;
        result = drained(context, name, &asked) => result,
        () = interrupted() => Err(CliError::Interrupted(if asked.get() {
            format!(
                "The drain of {name} goes on; `zectre nodes list` shows how far it is, `zectre nodes uncordon {name}` ends it."
            )
        } else {
            String::new()
        })),
    }
}

/// `asked` is set once the platform may know of it.
async fn drained(context: &Context, name: &str, asked: &Cell<bool>) -> Result<Shown, CliError> {
    let id = find(context, name).await?;
    let mut progress = context.output.progress(format!("Draining {name}"));
    asked.set(true);
    let node = tokio::select! {
        node = context.client.drain(id, Some(DRAIN_TIMEOUT)) => node?,
        never = tell_left(context, id, &mut progress) => match never {},
    };
    progress.clear();
    let shown = show(context, &node);
    if node.used.task_slots == 0 {
        return Ok(shown);
    }
    Err(CliError::Failed(format!(
        "{name} is not empty after {} s: its tasks go once others serve in their place, which needs room elsewhere. It goes \
         on draining; `zectre nodes list` shows how far it is, `zectre nodes uncordon {name}` ends it.",
        DRAIN_TIMEOUT.as_secs()
    )))
}

/// Tells how many tasks are left, as they get fewer.
async fn tell_left(context: &Context, id: NodeId, progress: &mut Progress) -> Infallible {
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        ticks.tick().await;
        // One look that fails is made up for by the next; what ends the wait is the other call.
        if let Ok(node) = context.client.node(id).await
            && node.eligibility == Eligibility::Draining
        {
            let left = match node.used.task_slots {
                1 => "1 task is".into(),
                count => format!("{count} tasks are"),
            };
            progress.update(format!("Draining {}: {left} left", node.name));
        }
    }
}

fn show(context: &Context, node: &Node) -> Shown {
    context
        .output
        .value(node, |node| context.output.data(standing(node)))
}

/// What a node does now, in a sentence.
fn standing(node: &Node) -> String {
    let name = &node.name;
    let tasks = match node.used.task_slots {
        0 => "no task".into(),
        1 => "1 task".into(),
        count => format!("{count} tasks"),
    };
    if node.status == NodeStatus::Lost {
        return format!("{name} ({}) is lost: it stopped answering", node.eligibility);
    }
    match (node.eligibility, node.used.task_slots) {
        (Eligibility::Eligible, _) => format!("{name} is eligible: it takes new tasks and runs {tasks}"),
        (Eligibility::Cordoned, _) => format!("{name} is cordoned: it takes no new tasks and runs {tasks}"),
        (Eligibility::Draining, 0) => format!("{name} is drained: it takes no new tasks and runs none"),
        (Eligibility::Draining, _) => {
            format!("{name} is draining: it takes no new tasks, and {tasks} have to move away")
        }
    }
}

async fn list(context: &Context) -> Result<Shown, CliError> {
    let nodes = collect(async |paging| context.client.nodes(paging).await).await?;
    Ok(context.output.value(&nodes, |nodes| {
        let mut table = Table::new([
            "node",
            "status",
            "eligibility",
            "address",
            "tasks",
            "cpu",
            "memory",
            "containers",
            "gaps",
            "age",
        ]);
        for node in nodes {
            table.row([
                node.name.clone(),
                node.status.to_string(),
                node.eligibility.to_string(),
                format!("{}:{}", node.address, node.actions_port),
                format!("{}/{}", node.used.task_slots, node.capacity.task_slots),
                format!("{}/{}", node.used.cpu, node.capacity.cpu),
                format!(
                    "{}/{}",
                    mebibytes(node.used.memory.0),
                    mebibytes(node.capacity.memory.0)
                ),
                if node.container_enabled { "yes" } else { "no" }.into(),
                match node.enforcement.gaps.len() {
                    0 => "none".into(),
                    count => count.to_string(),
                },
                age(node.registered_at),
            ]);
        }
        if table.is_empty() {
            context
                .output
                .say("There are no nodes yet. `zectre nodes join` says how to add one.");
            return;
        }
        table.print(context.output);
        for node in nodes {
            for gap in &node.enforcement.gaps {
                context.output.say(format!("{}: {gap}", node.name));
            }
        }
    }))
}

fn mebibytes(bytes: u64) -> String {
    format!("{}Mi", bytes >> 20)
}

async fn join(context: &Context) -> Result<Shown, CliError> {
    let token = context.client.create_join_token().await?;
    Ok(context.output.value(&token, |token| {
        context.output.data(&token.token);
        context.output.say(format!(
            "It admits one node until {}. On the new machine:\n  ZECTRE__AGENT__JOIN_TOKEN={} \
             ZECTRE__AGENT__SCHEDULER_ADDRESS=http://SCHEDULER:47091 ZECTRE__AGENT__HOST=0.0.0.0 zectre-agent",
            token.expires_at, token.token
        ));
    }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A node in a state.
    pub(crate) fn node(status: &str, eligibility: &str, tasks: u32) -> Node {
        let capacity = |tasks| serde_json::json!({"cpu": "1000m", "memory": "1Gi", "task_slots": tasks});
        let node = serde_json::json!({
            "id": NodeId::new(), "name": "vm", "address": "10.0.0.1", "actions_port": 1, "labels": {},
            "capacity": capacity(100), "used": capacity(tasks), "container_enabled": false,
            "eligibility": eligibility, "status": status, "lease_expires_at": "2026-01-01T00:00:00Z",
            "enforcement": {"cgroups": "v2", "memory": true, "cpu": true, "pids": true, "users": true},
            "registered_at": "2026-01-01T00:00:00Z",
        });
        serde_json::from_value(node).expect("a node")
    }

    #[test]
    fn a_node_s_standing_tells_what_it_takes_and_what_it_runs() {
        for (status, eligibility, tasks, says) in [
            ("ready", "eligible", 0, "takes new tasks and runs no task"),
            ("ready", "cordoned", 1, "takes no new tasks and runs 1 task"),
            ("ready", "draining", 2, "2 tasks have to move away"),
            ("ready", "draining", 0, "is drained"),
            ("lost", "cordoned", 0, "(cordoned) is lost"),
        ] {
            let said = standing(&node(status, eligibility, tasks));
            assert!(said.contains(says), "{said}");
        }
    }
}
