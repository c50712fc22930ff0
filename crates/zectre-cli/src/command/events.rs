//! `zectre events`

use crate::{
    args::EventsArgs,
    context::Context,
    error::CliError,
    output::Shown,
    project::{self, absent_is_none, full_name},
    table::{Table, age},
    terminal_text::harmless,
};
use std::collections::{HashMap, HashSet};
use zectre_client::{AppFilter, EventStream, Paging, collect};
use zectre_common::{id::ApplicationId, wire::event::Event};

pub(crate) async fn run(args: &EventsArgs, context: &Context) -> Result<Shown, CliError> {
    let app = match &args.project {
        Some(project) => Some(project::named(context, project).await?.id),
        None => None,
    };
    // The stream is opened before the list is read: what happens between the two is in the stream.
    let mut stream = context.client.event_stream();
    if args.follow {
        stream.open().await?;
    }
    let mut events = context.client.events(app, Paging::first(args.limit)).await?.data;
    // Oldest first, so that the newest stands next to the prompt and following goes on below it.
    events.reverse();
    let mut projects = Projects::load(context).await?;
    if args.follow {
        return follow(context, stream, app, &events, &mut projects).await;
    }
    Ok(context.output.value(&events, |events| {
        let mut table = Table::new(["age", "project", "who", "what", "message"]);
        for event in events {
            table.row([
                age(event.time),
                projects.known(event),
                event.actor.clone(),
                event.action.clone(),
                event.message.clone(),
            ]);
        }
        if table.is_empty() {
            context.output.say("Nothing has happened yet.");
        } else {
            table.print(context.output);
        }
    }))
}

/// The events so far, then new ones as they come.
async fn follow(
    context: &Context,
    mut stream: EventStream<Event>,
    app: Option<ApplicationId>,
    events: &[Event],
    projects: &mut Projects,
) -> Result<Shown, CliError> {
    // Ids are made before their commit: a later one may well have a smaller id.
    let shown: HashSet<_> = events.iter().map(|event| event.id).collect();
    for event in events {
        show(context, event, projects);
    }
    while let Some(event) = stream.next().await? {
        if !shown.contains(&event.id) && (app.is_none() || event.application_id == app) {
            projects.learn(context, &event).await?;
            show(context, &event, projects);
        }
    }
    Ok(context.output.stream_ended())
}

fn show(context: &Context, event: &Event, projects: &Projects) {
    context.output.item(event, |event| {
        format!(
            "{}  {}  {}  {}  {}",
            event.time,
            projects.known(event),
            event.actor,
            event.action,
            harmless(&event.message)
        )
    });
}

/// The names of projects by their ids, which is all that events hold.
struct Projects(HashMap<ApplicationId, Option<String>>);

impl Projects {
    async fn load(context: &Context) -> Result<Self, CliError> {
        let filter = AppFilter::default();
        let all = collect(async |paging| context.client.apps(&filter, paging).await).await?;
        Ok(Self(
            all.iter().map(|app| (app.id, Some(full_name(app)))).collect(),
        ))
    }

    /// Asks for the name of a project that came later; one that is gone stays without.
    async fn learn(&mut self, context: &Context, event: &Event) -> Result<(), CliError> {
        if let Some(id) = event.application_id
            && !self.0.contains_key(&id)
        {
            let app = absent_is_none(context.client.app(id).await)?;
            self.0.insert(id, app.as_ref().map(full_name));
        }
        Ok(())
    }

    /// What the table shows: a dash for what is about no project, or about one that is gone.
    fn known(&self, event: &Event) -> String {
        let name = event
            .application_id
            .and_then(|id| self.0.get(&id).cloned().flatten());
        name.unwrap_or_else(|| "-".into())
    }
}
