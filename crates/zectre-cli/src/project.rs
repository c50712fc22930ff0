//! From what a person typed to the project, environment or deployment that is meant.

mod slip;

use crate::{
    args::{EnvironmentArgs, ProjectArgs},
    context::Context,
    error::CliError,
    gone::Gone,
    link::Link,
};
use slip::resembling;
use std::path::Path;
use zectre_client::{AppFilter, ClientError, Paging, collect};
use zectre_common::{
    id::{ApplicationId, DeploymentId},
    manifest::Manifest,
    spec::valid_slug,
    wire::{
        app::{App, CreateAppRequest, Environment},
        deployment::Deployment,
    },
};

/// Where applications live unless someone says otherwise.
pub(crate) const NAMESPACE_DEFAULT: &str = "default";
/// The environment of a deployment unless someone says otherwise.
pub(crate) const ENVIRONMENT_DEFAULT: &str = "development";
/// What `--prod` stands for.
pub(crate) const ENVIRONMENT_PRODUCTION: &str = "production";
/// The names that people give environments, whether or not a project has them yet.
const ENVIRONMENTS_USUAL: [&str; 3] = [ENVIRONMENT_PRODUCTION, ENVIRONMENT_DEFAULT, "staging"];
/// How the platform refuses a project that is there.
const APP_EXISTS: &str = "APP_EXISTS";
/// How the platform refuses an environment that is there.
const ENVIRONMENT_EXISTS: &str = "ENVIRONMENT_EXISTS";

/// `namespace/name`
pub(crate) fn full_name(app: &App) -> String {
    format!("{}/{}", app.namespace, app.name)
}

/// What is said about a name that can't be one.
pub(crate) fn name_rule(name: &str) -> String {
    format!(
        "`{name}` is no name for a project: use lower case letters, digits and `-`, starting with a letter, at most 40 \
         characters."
    )
}

/// The project that is meant: the one named, else the one linked here, else the one the manifest names.
pub(crate) async fn find(context: &Context, args: &ProjectArgs) -> Result<App, CliError> {
    match &args.project {
        Some(project) => named(context, project).await,
        None => here(context, Path::new(".")).await,
    }
}

/// The project of `directory`, by link or by the manifest's name.
async fn here(context: &Context, directory: &Path) -> Result<App, CliError> {
    match linked(context, directory).await? {
        Some(Ok(app)) => return Ok(app),
        Some(Err(gone)) => return Err(gone.into_error(directory)),
        None => {}
    }
    let manifest = Manifest::load_dir(directory)?;
    of_manifest(context, &manifest).await?.ok_or_else(|| {
        CliError::NotFound(match manifest.name() {
            Some(name) => format!(
                "there is no project {}/{name} on {}, which zectre.yaml names. `zectre deploy` makes it; `zectre link NAME` \
                 links this directory to another one.",
                manifest.namespace().unwrap_or(NAMESPACE_DEFAULT),
                context.api_url()
            ),
            None => "this directory is not linked to a project. Run `zectre link NAME`, `zectre deploy`, or name one with \
                     --project."
                .into(),
        })
    })
}

/// The project that `directory` is linked to, or what is known of one that isn't there any more.
async fn linked(context: &Context, directory: &Path) -> Result<Option<Result<App, Gone>>, CliError> {
    let Some(link) = Link::find(directory, context.api_url())? else {
        return Ok(None);
    };
    match context.client.app(link.project_id).await {
        Err(error) if error.is_not_found() => Ok(Some(Err(Gone::of(context, link).await))),
        answer => Ok(Some(Ok(answer?))),
    }
}

/// The project that the manifest names; none where it names none, or none that is there.
async fn of_manifest(context: &Context, manifest: &Manifest) -> Result<Option<App>, CliError> {
    let Some(name) = manifest.name() else {
        return Ok(None);
    };
    let namespace = manifest.namespace().unwrap_or(NAMESPACE_DEFAULT);
    absent_is_none(context.client.app_by_name(namespace, name).await)
}

/// A project by its id, `namespace/name`, or name (in the default namespace, or the only one of that name).
pub(crate) async fn named(context: &Context, project: &str) -> Result<App, CliError> {
    let client = &context.client;
    let found = if let Ok(id) = project.parse::<ApplicationId>() {
        absent_is_none(client.app(id).await)?
    } else if let Some((namespace, name)) = project.split_once('/') {
        absent_is_none(client.app_by_name(namespace, name).await)?
    } else {
        match absent_is_none(client.app_by_name(NAMESPACE_DEFAULT, project).await)? {
            Some(app) => Some(app),
            None => only_one_named(context, project).await?,
        }
    };
    found.ok_or_else(|| {
        let makes = match project.split_once('/') {
            Some((namespace, name)) if valid_slug(namespace) && valid_slug(name) => {
                format!("; `zectre projects create {name} --namespace {namespace}` makes it")
            }
            None if valid_slug(project) => format!("; `zectre projects create {project}` makes it"),
            // None of that name can be.
            _ => String::new(),
        };
        CliError::NotFound(format!(
            "there is no project `{project}`. `zectre projects list` shows what there is{makes}."
        ))
    })
}

async fn only_one_named(context: &Context, name: &str) -> Result<Option<App>, CliError> {
    let filter = AppFilter::default();
    let all = collect(async |paging| context.client.apps(&filter, paging).await).await?;
    let mut same: Vec<App> = all.into_iter().filter(|app| app.name == name).collect();
    if same.len() > 1 {
        let places: Vec<_> = same.iter().map(full_name).collect();
        return Err(CliError::Usage(format!(
            "`{name}` could be {}. Name one of them.",
            places.join(" or ")
        )));
    }
    Ok(same.pop())
}

/// The project of `directory`, made when the manifest (or the directory's name) names one that doesn't exist;
/// either way the directory is linked to it, and that is said.
pub(crate) async fn find_or_create(
    context: &Context,
    args: &ProjectArgs,
    directory: &Path,
    manifest: &Manifest,
) -> Result<App, CliError> {
    if let Some(project) = &args.project {
        return named(context, project).await;
    }
    match linked(context, directory).await? {
        Some(Ok(app)) => {
            if let Some(other) = renamed(&app, manifest) {
                let full = full_name(&app);
                context.output.say(format!(
                    "Note: zectre.yaml names {other}, but this directory is linked to {full}, and that is used; `zectre link \
                     {other}` links it anew (`zectre projects add` makes a project that isn't there yet)."
                ));
            }
            return Ok(app);
        }
        // Someone deleted it, and now someone deploys: that is how a project begins.
        Some(Err(gone)) if gone.is_deleted() && manifest.name().is_some() => context.output.say(gone.note()),
        Some(Err(gone)) => return Err(gone.into_error(directory)),
        None => {}
    }
    if let Some(app) = of_manifest(context, manifest).await? {
        link(context, directory, &app)?;
        return Ok(app);
    }
    let Some(name) = manifest.name() else {
        return Err(CliError::Usage(
            "this directory is not linked to a project and has no `name` in zectre.yaml. `zectre projects create NAME` makes a \
             project and links it, `zectre link NAME` links one that is there, `zectre init` writes a first program."
                .into(),
        ));
    };
    let app = match create(context, name, manifest.namespace()).await {
        // Someone made it since it was looked for: another deploy of the same name, say. What only has its subdomain isn't found.
        Err(CliError::Client(refused)) if refused.code() == Some(APP_EXISTS) => {
            of_manifest(context, manifest).await?.ok_or(refused)?
        }
        made => made?,
    };
    link(context, directory, &app)?;
    Ok(app)
}

/// The project that the manifest names, where that is another one than the linked one.
fn renamed(app: &App, manifest: &Manifest) -> Option<String> {
    let name = manifest.name().unwrap_or(&app.name);
    let namespace = manifest.namespace().unwrap_or(&app.namespace);
    (name != app.name || namespace != app.namespace).then(|| format!("{namespace}/{name}"))
}

/// Makes a project, and says so.
pub(crate) async fn create(context: &Context, name: &str, namespace: Option<&str>) -> Result<App, CliError> {
    let request = CreateAppRequest {
        name: name.into(),
        namespace: namespace.map(Into::into),
        ..CreateAppRequest::default()
    };
    let app = context.client.create_app(&request).await?;
    context
        .output
        .say(format!("Created the project {}", full_name(&app)));
    Ok(app)
}

/// Links a directory, and says so.
pub(crate) fn link(context: &Context, directory: &Path, app: &App) -> Result<(), CliError> {
    Link::save(directory, context.api_url(), app)?;
    context
        .output
        .say(format!("Linked this directory to {}", full_name(app)));
    Ok(())
}

/// The environment that is meant, and the project it belongs to. Where none is named and several are in use, it is said which.
pub(crate) async fn environment(
    context: &Context,
    args: &EnvironmentArgs,
) -> Result<(App, Environment), CliError> {
    let app = find(context, &args.project).await?;
    let mut all = context.client.environments(app.id).await?.data;
    let wanted = if args.prod {
        Some(ENVIRONMENT_PRODUCTION)
    } else {
        args.env.as_deref()
    };
    let position = match wanted {
        Some(slug) => all.iter().position(|one| one.slug == slug),
        None => match in_use(&all) {
            Some(position) => Some(position),
            None => last_deployed_to(context, &app, &all).await?,
        },
    };
    match position {
        Some(position) => {
            if wanted.is_none()
                && let Some(note) = taken_of_several(&app, &all, position)
            {
                context.output.remark(note);
            }
            Ok((app, all.swap_remove(position)))
        }
        None => {
            let known: Vec<_> = all.iter().map(|one| one.slug.as_str()).collect();
            Err(CliError::NotFound(format!(
                "{} has no environment `{}`; it has {}. Name one with --env.",
                app.name,
                wanted.unwrap_or(ENVIRONMENT_DEFAULT),
                known.join(", ")
            )))
        }
    }
}

fn is_used(environment: &Environment) -> bool {
    let (current, target) = (
        environment.current_deployment_id,
        environment.target_deployment_id,
    );
    current.or(target).is_some()
}

/// The environment that is meant where none is named: one in which something is deployed, `development` first.
fn in_use(all: &[Environment]) -> Option<usize> {
    let of = |slug: &str| all.iter().position(|one| one.slug == slug && is_used(one));
    of(ENVIRONMENT_DEFAULT)
        .or_else(|| of(ENVIRONMENT_PRODUCTION))
        .or_else(|| all.iter().position(is_used))
}

/// What is said of the environment that was taken, where another one could have been.
fn taken_of_several(app: &App, all: &[Environment], taken: usize) -> Option<String> {
    let others = all
        .iter()
        .enumerate()
        .filter(|(at, one)| *at != taken && is_used(one));
    let others: Vec<_> = others.map(|(_, one)| one.slug.as_str()).collect();
    (!others.is_empty()).then(|| {
        format!(
            "This is {} of {}, since no other was named with --env; something is deployed to {} too.",
            all[taken].slug,
            full_name(app),
            others.join(", ")
        )
    })
}

/// Where nothing serves and nothing is rolled out: a run to completion may still run, or a first version have failed.
async fn last_deployed_to(
    context: &Context,
    app: &App,
    all: &[Environment],
) -> Result<Option<usize>, CliError> {
    let newest = context.client.deployments(app.id, Paging::first(1)).await?.data;
    let slug = newest
        .first()
        .map_or(ENVIRONMENT_DEFAULT, |one| one.environment.as_str());
    Ok(all.iter().position(|one| one.slug == slug))
}

/// Makes the environment that a deploy names where it isn't there, and says so; one that looks like a slip of the pen is refused.
pub(crate) async fn ensure_environment(context: &Context, app: &App, slug: &str) -> Result<(), CliError> {
    let all = context.client.environments(app.id).await?.data;
    if all.iter().any(|one| one.slug == slug) {
        return Ok(());
    }
    let full = full_name(app);
    let known = all.iter().map(|one| one.slug.as_str()).chain(ENVIRONMENTS_USUAL);
    if let Some(meant) = resembling(slug, known) {
        return Err(CliError::Usage(format!(
            "{full} has no environment `{slug}`: `--env {meant}` was meant? Nothing was made or deployed; where `{slug}` is \
             really to be one, `zectre environments add {slug} --project {full}` makes it."
        )));
    }
    match context.client.create_environment(app.id, slug).await {
        // Another deploy made it since.
        Err(refused) if refused.code() == Some(ENVIRONMENT_EXISTS) => return Ok(()),
        made => made?,
    };
    context.output.say(format!(
        "Created the environment {slug} of {full}, which had none of that name: it begins with the variables of every \
         environment. `zectre environments rm {slug} --project {full}` takes it back."
    ));
    Ok(())
}

/// The deployment that serves an environment (or, before the first one does, the one being rolled out).
pub(crate) async fn serving(
    context: &Context,
    args: &EnvironmentArgs,
) -> Result<(App, Environment, Deployment), CliError> {
    let (app, environment) = environment(context, args).await?;
    let deployment = serving_in(context, &app, &environment).await?;
    Ok((app, environment, deployment))
}

async fn serving_in(context: &Context, app: &App, environment: &Environment) -> Result<Deployment, CliError> {
    let id = environment
        .current_deployment_id
        .or(environment.target_deployment_id);
    let id = id.ok_or_else(|| {
        CliError::NotFound(format!(
            "nothing is deployed to {} of {}. Run `zectre deploy{}`.",
            environment.slug,
            app.name,
            if environment.slug == ENVIRONMENT_DEFAULT {
                String::new()
            } else {
                format!(" --env {}", environment.slug)
            }
        ))
    })?;
    Ok(context.client.deployment(id).await?)
}

/// What serves an environment or is about to; else its newest deployment, which may never have served.
pub(crate) async fn serving_or_newest(
    context: &Context,
    args: &EnvironmentArgs,
) -> Result<Deployment, CliError> {
    let (app, environment) = environment(context, args).await?;
    match serving_in(context, &app, &environment).await {
        Err(nothing @ CliError::NotFound(_)) => {
            let newest = newest(context, &app, &environment, |_| true).await?;
            newest.ok_or(nothing)
        }
        other => other,
    }
}

/// The newest deployment of an environment that is meant.
pub(crate) async fn newest(
    context: &Context,
    app: &App,
    environment: &Environment,
    is_meant: impl Fn(&Deployment) -> bool,
) -> Result<Option<Deployment>, CliError> {
    let all = collect(async |paging| context.client.deployments(app.id, paging).await).await?;
    Ok(all
        .into_iter()
        .filter(|one: &Deployment| one.environment == environment.slug && is_meant(one))
        .max_by_key(|one| one.version))
}

/// A deployment of `app` by its version number, its id, or the end of its id as lists show it.
pub(crate) async fn deployment(context: &Context, app: &App, text: &str) -> Result<Deployment, CliError> {
    if let Ok(id) = text.parse::<DeploymentId>() {
        return Ok(context.client.deployment(id).await?);
    }
    let all = collect(async |paging: Paging| context.client.deployments(app.id, paging).await).await?;
    let version = text.trim_start_matches('v').parse::<u32>().ok();
    let by_version = all.iter().find(|one| Some(one.version) == version);
    let by_end = || {
        all.iter()
            .find(|one| text.len() >= 4 && one.id.to_string().ends_with(text))
    };
    by_version.or_else(by_end).cloned().ok_or_else(|| {
        CliError::NotFound(format!(
            "{} has no deployment `{text}`. `zectre status` shows what there is.",
            app.name
        ))
    })
}

/// Turns "not found" into `None`.
pub(crate) fn absent_is_none<T>(answer: Result<T, ClientError>) -> Result<Option<T>, CliError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
