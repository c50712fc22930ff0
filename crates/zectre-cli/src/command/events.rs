//! `zectre events`

use crate::{
    args::EventsArgs,
    command::wait,
    context::Context,
    error::CliError,
    project,
    table::{Table, age},
};
use zectre_client::Paging;
use zectre_common::wire::event::Event;

pub(crate) async fn run(args: &EventsArgs, context: &Context) -> Result<(), CliError> {
    let app = match &args.project {
        Some(project) => Some(project::named(context, project).await?.id),
        None => None,
    };
    let mut events = context.client.events(app, Paging::first(args.limit)).await?.data;
    // Oldest first, so that the newest stands next to the prompt and following goes on below it.
    events.reverse();
    if !args.follow {
        context.output.value(&events, |events| {
            let mut table = Table::new(["age", "who", "what", "message"]);
            for event in events {
                table.row([
                    age(event.time),
                    event.actor.clone(),
                    event.action.clone(),
                    event.message.clone(),
                ]);
            }
            table.print(context.output);
        });
        return Ok(());
    }
    let mut seen = events.last().map(|event| event.id);
    for event in &events {
        show(context, event);
    }
    let mut stream = context.client.event_stream();
    loop {
        let next = tokio::select! {
            next = stream.next() => next?,
            () = wait::interrupted() => return Ok(()),
        };
        let Some(event) = next else { return Ok(()) };
        let fresh = seen.is_none_or(|seen| event.id > seen);
        if fresh && (app.is_none() || event.application_id == app) {
            seen = Some(event.id);
            show(context, &event);
        }
    }
}

fn show(context: &Context, event: &Event) {
    if context.output.json {
        context.output.json_line(event);
    } else {
        context.output.data(format!(
            "{}  {}  {}  {}",
            event.time, event.actor, event.action, event.message
        ));
    }
}
