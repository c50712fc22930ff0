//! `zectre catalog events`: what was done at a catalog, by whom and from where.

use crate::{
    args::CatalogEventsArgs,
    catalog::Catalog,
    error::CliError,
    output::{Output, Shown},
    table::{Table, age, or_dash},
};
use zectre_client::Paging;

pub(super) async fn run(args: &CatalogEventsArgs, output: Output) -> Result<Shown, CliError> {
    let client = Catalog::named(args.catalog.catalog.as_deref())?.client().await?;
    let paging = Paging::first(args.limit);
    let page = match &args.org {
        Some(org) => client.catalog_org_events(org, paging).await?,
        None => client.catalog_my_events(paging).await?,
    };
    let mut events = page.data;
    // The newest stands next to the prompt.
    events.reverse();
    Ok(output.value(&events, |events| {
        let mut table = Table::new(["age", "who", "from", "what", "message"]);
        for event in events {
            table.row([
                age(event.time),
                event.actor.clone(),
                or_dash(event.source_address.clone()),
                event.action.clone(),
                event.message.clone(),
            ]);
        }
        if table.is_empty() {
            output.say("Nothing has happened yet.");
        } else {
            table.print(output);
        }
    }))
}
