//! `zectre artifacts`

use crate::{
    context::Context,
    error::CliError,
    output::Shown,
    table::{Table, age, bytes, or_dash},
};
use zectre_client::Paging;

pub(crate) async fn run(limit: u32, context: &Context) -> Result<Shown, CliError> {
    let artifacts = context.client.artifacts(Paging::first(limit)).await?;
    Ok(context.output.value(&artifacts.data, |all| {
        let mut table = Table::new(["id", "name", "kind", "size", "state", "age"]);
        for one in all {
            table.row([
                one.id.to_string(),
                one.name.clone(),
                one.kind.to_string(),
                or_dash(one.size.map(bytes)),
                one.state.to_string(),
                age(one.created_at),
            ]);
        }
        if table.is_empty() {
            return context
                .output
                .say("There are no artifacts yet. A build makes them, and so does `zectre deploy --artifact FILE`.");
        }
        table.print(context.output);
    }))
}
