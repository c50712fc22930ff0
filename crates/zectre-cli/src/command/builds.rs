//! `zectre builds`

use crate::{
    args::ListArgs,
    context::Context,
    error::CliError,
    output::Shown,
    project,
    table::{Table, age, or_dash, span},
};
use zectre_client::Paging;

pub(crate) async fn run(args: &ListArgs, context: &Context) -> Result<Shown, CliError> {
    let app = project::find(context, &args.project).await?;
    let builds = context
        .client
        .builds(Some(app.id), Paging::first(args.limit))
        .await?;
    Ok(context.output.value(&builds.data, |all| {
        let mut table = Table::new(["id", "status", "took", "age", "message"]);
        for one in all {
            let took = one
                .started_at
                .zip(one.finished_at)
                .map(|(from, to)| span(to.since(from)));
            table.row([
                one.id.to_string(),
                one.status.to_string(),
                or_dash(took),
                age(one.created_at),
                one.message.clone().unwrap_or_default(),
            ]);
        }
        if table.is_empty() {
            return context
                .output
                .say("Nothing was built yet. `zectre deploy` builds this directory and deploys it.");
        }
        table.print(context.output);
    }))
}
