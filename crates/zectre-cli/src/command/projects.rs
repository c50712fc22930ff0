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
use zectre_common::{
    manifest::Manifest,
    spec::{RestartPolicy, valid_slug},
    wire::app::App,
};

pub(crate) async fn run(command: &ProjectsCommand, context: &Context) -> Result<Shown, CliError> {
    match command {
        ProjectsCommand::Add(args) => add(args, context).await,
        ProjectsCommand::Create(args) => {
            let (name, namespace, manifest) = meant(args)?;
            let app = project::create(context, &name, namespace.as_deref()).await?;
            // The directory may be another project's.
            let its_own = Some(&manifest).filter(|manifest| manifest.name() == Some(app.name.as_str()));
            Ok(show(context, &app, its_own))
        }
        ProjectsCommand::List { namespace } => list(context, namespace.clone()).await,
        ProjectsCommand::Delete { project, yes } => delete(context, project, *yes).await,
    }
}

/// Makes a project and links the directory to it; where that was done before, there is nothing to do.
async fn add(args: &NewProjectArgs, context: &Context) -> Result<Shown, CliError> {
    let (name, namespace, manifest) = meant(args)?;
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
        return Ok(show(context, &app, Some(&manifest)));
    }
    let app = project::create(context, &name, namespace.as_deref()).await?;
    project::link(context, here, &app)?;
    Ok(show(context, &app, Some(&manifest)))
}

/// Name and namespace of a new project, by the arguments or the manifest, which comes with them.
fn meant(args: &NewProjectArgs) -> Result<(String, Option<String>, Manifest), CliError> {
    let manifest = Manifest::load_dir(Path::new("."))?;
    let name = args.name.as_deref().or(manifest.name()).ok_or_else(|| {
        CliError::Usage("name the project: `zectre projects add NAME`, or `name: NAME` in zectre.yaml".into())
    })?;
    if !valid_slug(name) {
        return Err(CliError::Usage(project::name_rule(name)));
    }
    let namespace = args.namespace.as_deref().or(manifest.namespace());
    let (name, namespace) = (name.to_owned(), namespace.map(str::to_owned));
    Ok((name, namespace, manifest))
}

/// The project, of which `manifest` says how it is run: its URL, or the whole as JSON.
fn show(context: &Context, app: &App, manifest: Option<&Manifest>) -> Shown {
    context.output.value(app, |app| {
        if let Some(url) = url(app, manifest) {
            context.output.data(url);
        }
    })
}

/// Where it will answer: a job does nowhere.
fn url<'a>(app: &'a App, manifest: Option<&Manifest>) -> Option<&'a str> {
    let restart = manifest.and_then(|manifest| manifest.deployment_request().restart);
    (restart != Some(RestartPolicy::Never)).then_some(app.url.as_str())
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
    // One that can't be read is in nobody's way here; `deploy` says what is wrong with it.
    let manifest = Manifest::load_dir(Path::new(".")).ok();
    Ok(show(context, &app, manifest.as_ref()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use zectre_common::id::ApplicationId;

    #[test]
    fn a_job_has_no_url() {
        let app: App = serde_json::from_value(json!({
            "id": ApplicationId::new(), "name": "primes", "namespace": "default", "subdomain": "primes-default",
            "url": "http://primes.test", "description": "", "labels": {}, "default_deployment_spec": {},
            "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        }))
        .expect("an application");
        let shown = |text: &str| {
            let manifest = Manifest::parse("zectre.yaml", text).expect("a manifest");
            url(&app, Some(&manifest)).map(str::to_owned)
        };
        let answers = Some("http://primes.test");
        assert_eq!(shown("name: primes\ndeploy:\n  restart: never\n"), None);
        assert_eq!(
            shown("name: primes\ndeploy:\n  restart: always\n").as_deref(),
            answers
        );
        assert_eq!(shown("name: primes\n").as_deref(), answers);
        assert_eq!(url(&app, None), answers);
    }
}
