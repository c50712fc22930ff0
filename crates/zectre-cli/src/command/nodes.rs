//! `zectre nodes …`

use crate::{
    args::NodesCommand,
    context::Context,
    error::CliError,
    table::{Table, age},
};
use std::time::Duration;
use zectre_client::collect;
use zectre_common::{id::NodeId, wire::node::Node};

/// How long the API waits for a drained node to be empty.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) async fn run(command: &NodesCommand, context: &Context) -> Result<(), CliError> {
    let client = &context.client;
    match command {
        NodesCommand::List => return list(context).await,
        NodesCommand::Join => return join(context).await,
        NodesCommand::Drain { node, wait } => {
            let id = find(context, node).await?;
            let progress = context.output.progress(format!("Draining {node}"));
            let drained = client.drain(id, wait.then_some(DRAIN_TIMEOUT)).await?;
            progress.clear();
            say(context, &drained);
        }
        NodesCommand::Cordon { node } => say(context, &client.cordon(find(context, node).await?).await?),
        NodesCommand::Uncordon { node } => say(context, &client.uncordon(find(context, node).await?).await?),
    }
    Ok(())
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

fn say(context: &Context, node: &Node) {
    context.output.value(node, |node| {
        context.output.data(format!(
            "{} is {} with {} tasks",
            node.name, node.eligibility, node.used.task_slots
        ));
    });
}

async fn list(context: &Context) -> Result<(), CliError> {
    let nodes = collect(async |paging| context.client.nodes(paging).await).await?;
    context.output.value(&nodes, |nodes| {
        let mut table = Table::new([
            "node",
            "status",
            "eligibility",
            "address",
            "tasks",
            "cpu",
            "memory",
            "containers",
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
                age(node.registered_at),
            ]);
        }
        table.print(context.output);
    });
    Ok(())
}

fn mebibytes(bytes: u64) -> String {
    format!("{}Mi", bytes >> 20)
}

async fn join(context: &Context) -> Result<(), CliError> {
    let token = context.client.create_join_token().await?;
    context.output.value(&token, |token| {
        context.output.data(&token.token);
        context.output.say(format!(
            "It admits one node until {}. On the new machine:\n  ZECTRE__AGENT__JOIN_TOKEN={} \
             ZECTRE__AGENT__SCHEDULER_ADDRESS=http://SCHEDULER:47091 ZECTRE__AGENT__HOST=0.0.0.0 zectre-agent",
            token.expires_at, token.token
        ));
    });
    Ok(())
}
