//! `zectre projects …`, `zectre link` and `zectre unlink`

use crate::{
    args::{LinkArgs, NewProjectArgs, ProjectsCommand},
    context::Context,
    error::CliError,
    link::Link,
    output::Shown,
    project::{self, absent_is_none},
    prompt,
    table::{Table, age},
};
use std::path::Path;
use zectre_client::{AppFilter, collect};
use zectre_common::{manifest::Manifest, spec::valid_slug, wire::app::App};

pub(crate) async fn run(command: &ProjectsCommand, context: &Context) -> Result<Shown, CliError> {
    match command {
        ProjectsCommand::Add(args) => add(args, context).await,
        ProjectsCommand::Create(args) => {
            let (name, namespace) = meant(args)?;
            let app = project::create(context, &name, namespace.as_deref()).await?;
            Ok(show(context, &app))
        }
        ProjectsCommand::List { namespace } => list(context, namespace.clone()).await,
        ProjectsCommand::Delete { project, yes } => delete(context, project, *yes).await,
    }
}

/// Makes a project and links the directory to it; where that was done before, there is nothing to do.
async fn add(args: &NewProjectArgs, context: &Context) -> Result<Shown, CliError> {
    let (name, namespace) = meant(args)?;
    let here = Path::new(".");
    let place = namespace.as_deref().unwrap_or(project::NAMESPACE_DEFAULT);
    if let Some(app) = absent_is_none(context.client.app_by_name(place, &name).await)? {
        let full = project::full_name(&app);
        if Link::of(here, context.api_url())?.is_none_or(|link| link.project_id != app.id) {
            return Err(CliError::Failed(format!(
                "there is a project {full} already. `zectre link {full}` links this directory to it, `zectre projects add \
                 NAME` makes another one."
            )));
        }
        context.output.say(format!(
            "This directory is linked to {full} already: nothing to do"
        ));
        return Ok(show(context, &app));
    }
    let app = project::create(context, &name, namespace.as_deref()).await?;
    project::link(context, here, &app)?;
    Ok(show(context, &app))
}

/// Name and namespace of a new project, by the arguments or the manifest.
fn meant(args: &NewProjectArgs) -> Result<(String, Option<String>), CliError> {
    let manifest = Manifest::load_dir(Path::new("."))?;
    let name = args.name.as_deref().or(manifest.name()).ok_or_else(|| {
        CliError::Usage("name the project: `zectre projects add NAME`, or `name: NAME` in zectre.yaml".into())
    })?;
    if !valid_slug(name) {
        return Err(CliError::Usage(project::name_rule(name)));
    }
    let namespace = args.namespace.as_deref().or(manifest.namespace());
    Ok((name.into(), namespace.map(Into::into)))
}

fn show(context: &Context, app: &App) -> Shown {
    context.output.value(app, |app| context.output.data(&app.url))
}

async fn list(context: &Context, namespace: Option<String>) -> Result<Shown, CliError> {
    let filter = AppFilter { namespace };
    let apps = collect(async |paging| context.client.apps(&filter, paging).await).await?;
    Ok(context.output.value(&apps, |apps| {
        let mut table = Table::new(["project", "url", "age"]);
        for app in apps {
            table.row([project::full_name(app), app.url.clone(), age(app.created_at)]);
        }
        if table.is_empty() {
            context
                .output
                .say("There are no projects yet. `zectre init` and `zectre deploy` make the first one.");
        } else {
            table.print(context.output);
        }
    }))
}

async fn delete(context: &Context, name: &str, yes: bool) -> Result<Shown, CliError> {
    let app = project::named(context, name).await?;
    let full = project::full_name(&app);
    if !yes && !prompt::confirm(&format!("Delete {full} with all its deployments and variables?")).await? {
        return Err(CliError::Usage(format!(
            "{full} was not deleted. Add --yes to delete it without a question."
        )));
    }
    // Directories that are linked to it stay so, and tell what became of it.
    context.client.delete_app(app.id).await?;
    Ok(context.output.done(&app, format!("Deleted {full}")))
}

pub(crate) async fn link(args: &LinkArgs, context: &Context) -> Result<Shown, CliError> {
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
    Ok(show(context, &app))
}

/// The nearest link here or above, and that alone: the project stays, and other clusters' links do.
pub(crate) fn unlink(context: &Context) -> Result<Shown, CliError> {
    let (here, url) = (Path::new("."), context.api_url());
    let (Some(root), Some(link)) = (Link::root(here, url), Link::find(here, url)?) else {
        return Err(CliError::NotFound(format!(
            "this directory is not linked to a project of {url}, and none above it is. `zectre link NAME` links it."
        )));
    };
    Link::remove(&root, url)?;
    let remark = format!(
        "Unlinked {} from {}/{}, which stays as it is",
        root.display(),
        link.namespace,
        link.name
    );
    Ok(context.output.done(&link, remark))
}
