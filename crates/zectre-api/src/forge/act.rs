//! Does what a forge's call asks for, for one application, in one transaction.

use super::{
    github::Step,
    order::{self, Moment},
};
use crate::{
    context::Context,
    error::{Error, refuse},
    identity::Actor,
    routes::{
        builds,
        deploy::{self, Wish},
        environments,
    },
    scheduler,
    store::{
        app, build,
        change::{About, Change},
        environment, source,
    },
};
use zectre_common::{
    id::{ApplicationId, BuildId},
    routing::LABEL_LEN_MAX,
    spec::DeploymentRequest,
    time::Time,
    wire::source::InboundResult,
};

/// A call that was found to be a forge's.
pub(crate) struct Call<'a> {
    pub(crate) delivery: &'a str,
    pub(crate) body_hash: &'a [u8],
}

/// Does it, unless the call has had its effect on the application before: then `None`.
pub(crate) async fn act(
    context: &Context,
    actor: &Actor,
    call: &Call<'_>,
    source: &source::Row,
    step: Step,
    moment: Option<&Moment>,
) -> Result<Option<InboundResult>, Error> {
    let app = source.application_id;
    let gone = || {
        refuse(
            &crate::code::APP_NOT_FOUND,
            format!("there is no application {app}"),
        )
    };
    let planned = match &step {
        Step::Deploy { commit, environment } | Step::Preview { commit, environment } => {
            Some(plan(context, app, commit, environment).await?)
        }
        Step::Remove { .. } | Step::Nothing(_) => None,
    };
    let mut change = Change::begin(&context.pool, actor).await?;
    // Before anything refers to its row: two calls come one after the other.
    let locked = app::lock(change.connection(), app).await?.ok_or_else(gone)?;
    if !source::receive(change.connection(), app, call.delivery, call.body_hash).await? {
        return Ok(None);
    }
    let mut result = InboundResult {
        application_id: app,
        outcome: "ignored".into(),
        message: String::new(),
        environment: None,
        url: None,
        deployment_id: None,
    };
    if let Some(moment) = moment {
        let now = Time::now();
        if order::is_forgotten(moment, now) || order::is_yet_to_come(moment, now) {
            result.message = format!("the call tells of {}: that is no news", moment.seen.at);
            change.commit().await?;
            return Ok(Some(result));
        }
        let last = source::head(change.connection(), app, &moment.subject).await?;
        if last.is_some_and(|last| order::is_late(&last, moment)) {
            result.message = format!(
                "the call is late: a newer one of `{}` was here before it",
                moment.subject.trim_start_matches("refs/heads/")
            );
            change.commit().await?;
            return Ok(Some(result));
        }
        source::set_head(change.connection(), app, moment).await?;
    }
    if let Some(planned) = &planned {
        if matches!(step, Step::Preview { .. }) {
            let host = ensure_preview(context, &mut change, app, &locked, planned.environment).await?;
            result.url = Some(context.urls.of_host(&host));
        }
        deploy_commit(context, change, source, planned, &locked.name, &mut result).await?;
        return Ok(Some(result));
    }
    if let Step::Remove { environment } = &step {
        if environments::remove(&mut change, app, environment).await? {
            result.outcome = "removed".into();
            result.message = format!("environment `{environment}` was deleted");
        } else {
            result.message = format!("there is no environment `{environment}`");
        }
        result.environment = Some(environment.clone());
    }
    if let Step::Nothing(why) = &step {
        result.message.clone_from(why);
    }
    change.commit().await?;
    scheduler::nudge(context, None).await;
    Ok(Some(result))
}

/// A deployment of a commit that could be made.
struct Planned<'a> {
    commit: &'a str,
    environment: &'a str,
    build_id: BuildId,
    wish: Wish,
}

async fn plan<'a>(
    context: &Context,
    app: ApplicationId,
    commit: &'a str,
    environment: &'a str,
) -> Result<Planned<'a>, Error> {
    let build_id = BuildId::new();
    let request = DeploymentRequest {
        environment: Some(environment.to_owned()),
        build_id: Some(build_id),
        ..DeploymentRequest::default()
    };
    Ok(Planned {
        commit,
        environment,
        build_id,
        wish: deploy::prepare(context, app, &request).await?,
    })
}

/// Queues a build of the commit, and a deployment that waits for it.
async fn deploy_commit(
    context: &Context,
    mut change: Change<'_>,
    source: &source::Row,
    planned: &Planned<'_>,
    name: &str,
    result: &mut InboundResult,
) -> Result<(), Error> {
    let app = source.application_id;
    let Planned { commit, build_id, .. } = planned;
    let git = build::Git {
        repository: &source.repository,
        reference: commit,
        root_dir: &source.root_dir,
    };
    // What is refused is not written down as received: the forge may send it again.
    builds::check_open(change.connection(), app).await?;
    planned.wish.check_room_to_build(&mut change).await?;
    build::insert_git(change.connection(), *build_id, app, &git, None).await?;
    let message = format!("a build of `{name}` from commit {commit} is queued");
    change.event("build.queued", About::app(app), &message).await?;
    let deployment = deploy::make(&mut change, app, &planned.wish, None).await?;
    change.commit().await?;
    builds::nudge(context, "/api/v1/builds", *build_id).await;
    scheduler::nudge(context, Some(deployment)).await;
    result.outcome = "deployed".into();
    result.message = format!(
        "commit {commit} is built and deployed to `{}`",
        planned.environment
    );
    result.environment = Some(planned.environment.to_owned());
    result.deployment_id = Some(deployment);
    Ok(())
}

/// Makes a pull request's environment unless it is there; the host that leads to whatever is current in it.
async fn ensure_preview(
    context: &Context,
    change: &mut Change<'_>,
    app: ApplicationId,
    locked: &app::Locked,
    slug: &str,
) -> Result<String, Error> {
    let label = preview_label(&locked.name, &locked.namespace, slug, app);
    let host = format!("{label}.{}", context.urls.domain);
    let id = match environment::id(change.connection(), app, slug).await? {
        Some(id) => id,
        None => {
            let made = environment::insert(change.connection(), app, slug).await?;
            let made = made.ok_or_else(|| {
                let detail = format!(
                    "an application has at most {} environments; delete one",
                    environment::ENVIRONMENTS_MAX
                );
                refuse(&crate::code::TOO_MANY_ENVIRONMENTS, detail)
            })?;
            let message = format!(
                "environment `{slug}` was made; it answers at {}",
                context.urls.of_host(&host)
            );
            change
                .event("environment.created", About::app(app), &message)
                .await?;
            made.id
        }
    };
    source::route(change.connection(), app, id, &host).await?;
    Ok(host)
}

/// `{name}-{namespace}-pr-N-{6 hex of the application's id}`: stable over a pull request's deployments, and no other
/// application's subdomain unless that is made for it (then the route, which comes first, still leads here).
fn preview_label(name: &str, namespace: &str, slug: &str, app: ApplicationId) -> String {
    let id = app.get().simple().to_string();
    let suffix = format!("-{slug}-{}", &id[id.len() - 6..]);
    let mut stem = zectre_common::routing::subdomain(name, namespace);
    stem.truncate(LABEL_LEN_MAX.saturating_sub(suffix.len()));
    format!("{}{suffix}", stem.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_has_one_label_of_its_own() {
        let app: ApplicationId = "0198f2c4-7c3e-7a51-9d0e-3f6f2fabcdef".parse().expect("an id");
        assert_eq!(
            preview_label("shop", "default", "pr-7", app),
            "shop-default-pr-7-abcdef"
        );
        let long = preview_label(&"a".repeat(40), &"b".repeat(40), "pr-4294967295", app);
        assert!(
            long.len() <= LABEL_LEN_MAX && long.ends_with("-pr-4294967295-abcdef"),
            "{long}"
        );
    }
}
