//! `zectre projects …` and `zectre link`

use crate::{
    args::{LinkArgs, NewProjectArgs, ProjectsCommand},
    context::Context,
    error::CliError,
    link::Link,
    project, prompt,
    table::{Table, age},
};
use std::path::Path;
use zectre_client::{AppFilter, collect};
use zectre_common::{manifest::Manifest, wire::app::App};

pub(crate) async fn run(command: &ProjectsCommand, context: &Context) -> Result<(), CliError> {
    match command {
        ProjectsCommand::Add(args) => {
            let app = create(args, context).await?;
            project::link(context, Path::new("."), &app)?;
            show(context, &app);
            Ok(())
        }
        ProjectsCommand::Create(args) => {
            let app = create(args, context).await?;
            show(context, &app);
            Ok(())
        }
        ProjectsCommand::List { namespace } => list(context, namespace.clone()).await,
        ProjectsCommand::Delete { project, yes } => delete(context, project, *yes).await,
    }
}

async fn create(args: &NewProjectArgs, context: &Context) -> Result<App, CliError> {
    let manifest = Manifest::load_dir(Path::new("."))?;
    let name = args.name.as_deref().or(manifest.name()).ok_or_else(|| {
        CliError::Usage("name the project: `zectre projects add NAME`, or `name: NAME` in zectre.yaml".into())
    })?;
    project::create(context, name, args.namespace.as_deref().or(manifest.namespace())).await
}

fn show(context: &Context, app: &App) {
    context.output.value(app, |app| context.output.data(&app.url));
}

async fn list(context: &Context, namespace: Option<String>) -> Result<(), CliError> {
    let filter = AppFilter { namespace };
    let apps = collect(async |paging| context.client.apps(&filter, paging).await).await?;
    context.output.value(&apps, |apps| {
        let mut table = Table::new(["project", "url", "age"]);
        for app in apps {
            table.row([
                format!("{}/{}", app.namespace, app.name),
                app.url.clone(),
                age(app.created_at),
            ]);
        }
        if table.is_empty() {
            context
                .output
                .say("There are no projects yet. `zectre init` and `zectre deploy` make the first one.");
        } else {
            table.print(context.output);
        }
    });
    Ok(())
}

async fn delete(context: &Context, name: &str, yes: bool) -> Result<(), CliError> {
    let app = project::named(context, name).await?;
    let full = format!("{}/{}", app.namespace, app.name);
    if !yes && !prompt::confirm(&format!("Delete {full} with all its deployments and variables?"))? {
        return Err(CliError::Usage(format!(
            "{full} was not deleted. Add --yes to delete it without a question."
        )));
    }
    context.client.delete_app(app.id).await?;
    if Link::find(Path::new("."), context.api_url())?.is_some_and(|link| link.project_id == app.id) {
        Link::remove(Path::new("."), context.api_url());
    }
    context.output.say(format!("Deleted {full}"));
    Ok(())
}

pub(crate) async fn link(args: &LinkArgs, context: &Context) -> Result<(), CliError> {
    let app = match &args.project {
        Some(project) => project::named(context, project).await?,
        None => {
            let manifest = Manifest::load_dir(Path::new("."))?;
            let name = manifest.name().ok_or_else(|| {
                CliError::Usage("name the project: `zectre link NAME`, or `name: NAME` in zectre.yaml".into())
            })?;
            let namespace = manifest.namespace().unwrap_or(project::NAMESPACE_DEFAULT);
            project::named(context, &format!("{namespace}/{name}")).await?
        }
    };
    project::link(context, Path::new("."), &app)?;
    show(context, &app);
    Ok(())
}
