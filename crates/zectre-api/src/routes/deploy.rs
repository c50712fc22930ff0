//! Making a deployment: from a sparse request to a row, an operation and a nudge.

use super::gone;
use crate::handler::routes;
use crate::{
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, invalid, invalid_field, refuse},
    identity::Actor,
    policy::{Policy, Thing},
    quota::{self, Resource, Watch},
    scheduler,
    store::{
        app, artifact, build,
        change::{About, Change},
        deployment,
        environment::{self, PORT_HELD_HOURS, PortAssigned},
        ownership,
    },
};
use axum::{extract::State, response::Response};
use sqlx::PgConnection;
use zectre_common::{
    id::{ApplicationId, ArtifactId, BuildId, DeploymentId, EnvironmentId, OrganizationId, UserId},
    routing,
    spec::{DeploymentRequest, DeploymentSpec, ProcessType, Protocol, RestartPolicy},
    state::{ArtifactKind, ArtifactState, BuildStatus, OperationKind, Role},
    wire::{deployment::Deployment, quota::Amounts},
};
use zectre_service::extract::{Json, Path};

/// Tries for a free preview label: each has 32 random bits, so a second try is rare and a third unheard of.
const LABEL_TRIES: usize = 5;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![endpoint(Policy::Owned(Role::Developer, Thing::App), routes!(create)).creates()]
}

/// What a deployment runs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Program {
    artifact_id: Option<ArtifactId>,
    image: Option<String>,
    build_id: Option<BuildId>,
}

/// Deploys: the new version is rolled out, and takes over once it is healthy.
///
/// Without artifact, build and image it waits for the application's build under way.
#[utoipa::path(post, path = "/apps/{id}/deployments", tag = "deployments",
               params(("id" = ApplicationId, Path, description = "The application's id")),
               request_body = DeploymentRequest,
               responses((status = 201, description = "The deployment, being rolled out", body = Deployment)))]
async fn create(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<ApplicationId>,
    Json(request): Json<DeploymentRequest>,
) -> Result<Response, Error> {
    let wish = prepare(&context, id, &request).await?;
    let mut change = Change::begin(&context.pool, &actor).await?;
    let deployment_id = make(&mut change, id, &wish, actor.user_id).await?;
    let row = deployment::get(change.connection(), deployment_id).await?;
    let made = row
        .ok_or_else(|| gone(Thing::Deployment, deployment_id))?
        .into_deployment(&context.urls);
    let answer = super::created(change, &format!("/deployments/{deployment_id}"), made).await?;
    scheduler::nudge(&context, Some(deployment_id)).await;
    Ok(answer)
}

/// A deployment that could be made.
pub(crate) struct Wish {
    owner: OrganizationId,
    quotas: Amounts,
    wanted: DeploymentRequest,
    spec: DeploymentSpec,
    /// What proxies listen at for plain TCP: first and last.
    tcp_ports: Option<(u16, u16)>,
}

impl Wish {
    /// Refuses to build it where its program could not be stored.
    pub(crate) async fn check_room_to_build(&self, change: &mut Change<'_>) -> Result<(), Error> {
        quota::check_room_to_build(change, &self.quotas, self.owner).await
    }
}

/// Checks a request against the application, before the change that makes it.
pub(crate) async fn prepare(
    context: &Context,
    id: ApplicationId,
    request: &DeploymentRequest,
) -> Result<Wish, Error> {
    let app = app::get(&context.pool, id)
        .await?
        .ok_or_else(|| gone(Thing::App, id))?
        .into_app(&context.urls);
    let owner = ownership::of_app(&context.pool, id)
        .await?
        .ok_or_else(|| gone(Thing::App, id))?;
    let wanted = with_defaults_program(request, &app.default_deployment_spec);
    let mut spec = wanted
        .resolve(&without_program(&app.default_deployment_spec))
        .map_err(invalid)?;
    cap_runtime(&mut spec, context.settings.max_runtime_secs_cap)?;
    let tcp_ports = context.urls.tcp_ports();
    if spec.networking.protocol == Protocol::Tcp && tcp_ports.is_none() {
        return Err(invalid_field(
            "networking.protocol",
            "`tcp` is not offered by this cluster: it has no ports for it (proxy.tcp_port_range)",
        ));
    }
    Ok(Wish {
        owner,
        quotas: context.settings.quotas,
        wanted,
        spec,
        tcp_ports,
    })
}

/// Gives the environment a port of its own, unless it has one.
async fn assign_port(
    change: &mut Change<'_>,
    environment: EnvironmentId,
    range: Option<(u16, u16)>,
) -> Result<(), Error> {
    if environment::public_port(change.connection(), environment)
        .await?
        .is_some()
    {
        return Ok(());
    }
    // Before the environment's row, as the scheduler's commits take them: or the two wait for each other.
    change.raise_routing_epoch().await?;
    let (first, last) = range.unwrap_or((1, 0));
    let range = format!("all ports from {first} to {last} are given to environments that speak plain TCP");
    let detail = match environment::assign_port(change.connection(), environment, first, last).await? {
        PortAssigned::Given => return Ok(()),
        PortAssigned::NoneLeft => format!("{range}: delete one, or widen proxy.tcp_port_range"),
        PortAssigned::Held { count, wait_minutes } => format!(
            "{range}, but for {count} that others gave up within the last {PORT_HELD_HOURS} hours; clients of theirs may still call \
             there. Try again in {}, when the first of them may be given, or widen proxy.tcp_port_range",
            in_words(wait_minutes)
        ),
    };
    Err(refuse(&code::NO_PUBLIC_PORT, detail))
}

fn in_words(minutes: i64) -> String {
    let (count, unit) = if minutes < 60 {
        (minutes, "minute")
    } else {
        ((minutes + 59) / 60, "hour")
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

/// Makes the deployment; the scheduler is to be nudged once the change is committed.
pub(crate) async fn make(
    change: &mut Change<'_>,
    id: ApplicationId,
    wish: &Wish,
    created_by: Option<UserId>,
) -> Result<DeploymentId, Error> {
    let Wish {
        owner,
        quotas,
        wanted,
        spec,
        tcp_ports,
    } = wish;
    let locked = app::lock(change.connection(), id)
        .await?
        .ok_or_else(|| gone(Thing::App, id))?;
    let environment_id = environment::id(change.connection(), id, &spec.environment)
        .await?
        .ok_or_else(|| {
            let slug = &spec.environment;
            let detail = format!(
                "the application has no environment `{slug}`; make it with POST /apps/{id}/environments"
            );
            refuse(&code::ENVIRONMENT_NOT_FOUND, detail)
        })?;
    // The organization before the routing epoch, which a port raises: the order that `Change` tells.
    let watch = Watch::begin(change, quotas, *owner, Resource::Work).await?;
    if spec.networking.protocol == Protocol::Tcp && spec.restart != RestartPolicy::Never {
        assign_port(change, environment_id, *tcp_ports).await?;
    }
    let program = choose_program(change.connection(), id, *owner, wanted, spec.process_type).await?;
    let mut made = None;
    for _ in 0..LABEL_TRIES {
        let deployment_id = DeploymentId::new();
        let preview_label = routing::preview_label(&locked.name, &locked.namespace, deployment_id);
        let new = deployment::New {
            id: deployment_id,
            application_id: id,
            environment_id,
            spec,
            image: program.image.as_deref(),
            artifact_id: program.artifact_id,
            build_id: program.build_id,
            preview_label: &preview_label,
            created_by,
        };
        if let Some(version) = deployment::insert(change.connection(), &new).await? {
            made = Some((deployment_id, version));
            break;
        }
    }
    let (deployment_id, version) = made.ok_or_else(|| Error::Internal("no preview label was free".into()))?;
    if let Some(watch) = watch {
        watch.check(change).await?;
    }
    let about = About::deployment(id, deployment_id);
    change.operation(OperationKind::Deploy, about).await?;
    let message = format!(
        "version {version} of `{}` is deployed to `{}`",
        locked.name, spec.environment
    );
    change.event("deployment.created", about, &message).await?;
    // Its preview host is there from now on.
    change.raise_routing_epoch().await?;
    Ok(deployment_id)
}

/// The request, with the application's program when it names none of its own: one of them, never a mix.
fn with_defaults_program(request: &DeploymentRequest, defaults: &DeploymentRequest) -> DeploymentRequest {
    let mut wanted = request.clone();
    if !names_program(request) {
        wanted.artifact_id = defaults.artifact_id;
        wanted.build_id = defaults.build_id;
        wanted.image.clone_from(&defaults.image);
        wanted.process_type = wanted.process_type.or(defaults.process_type);
    }
    wanted
}

fn names_program(request: &DeploymentRequest) -> bool {
    request.artifact_id.is_some() || request.build_id.is_some() || request.image.is_some()
}

fn without_program(defaults: &DeploymentRequest) -> DeploymentRequest {
    DeploymentRequest {
        artifact_id: None,
        build_id: None,
        image: None,
        process_type: None,
        ..defaults.clone()
    }
}

fn cap_runtime(spec: &mut DeploymentSpec, cap_secs: u32) -> Result<(), Error> {
    match spec.max_runtime_secs {
        _ if cap_secs == 0 => Ok(()),
        Some(secs) if secs > cap_secs => Err(invalid_field(
            "max_runtime_secs",
            format!("this cluster allows at most {cap_secs} seconds"),
        )),
        Some(_) => Ok(()),
        None => {
            spec.max_runtime_secs = Some(cap_secs);
            Ok(())
        }
    }
}

async fn choose_program(
    connection: &mut PgConnection,
    app: ApplicationId,
    owner: OrganizationId,
    wanted: &DeploymentRequest,
    process_type: ProcessType,
) -> Result<Program, Error> {
    if let Some(image) = &wanted.image {
        return Ok(Program {
            image: Some(image.clone()),
            ..Program::default()
        });
    }
    if process_type == ProcessType::Docker {
        return Err(invalid_field("image", "the process type `docker` needs an image"));
    }
    if let Some(id) = wanted.artifact_id {
        check_artifact(connection, owner, id).await?;
        return Ok(Program {
            artifact_id: Some(id),
            ..Program::default()
        });
    }
    let build = match wanted.build_id {
        Some(id) => {
            let build = build::get_of_app(connection, app, id).await?;
            build.ok_or_else(|| refuse(&code::BUILD_NOT_FOUND, format!("the application has no build {id}")))?
        }
        None => build::newest_open(connection, app).await?.ok_or_else(|| {
            let detail = "nothing to deploy: name artifact_id, build_id or image, or start a build with POST /apps/{id}/builds";
            refuse(&code::NOTHING_TO_DEPLOY, detail)
        })?,
    };
    if matches!(build.status, BuildStatus::Failed | BuildStatus::Cancelled) {
        let detail = format!("build {} ended as {}; start another one", build.id, build.status);
        return Err(refuse(&code::BUILD_NOT_USABLE, detail));
    }
    Ok(Program {
        build_id: Some(build.id),
        artifact_id: build.artifact_id,
        image: None,
    })
}

async fn check_artifact(
    connection: &mut PgConnection,
    owner: OrganizationId,
    id: ArtifactId,
) -> Result<(), Error> {
    let artifact = artifact::get_owned(connection, owner, id).await?;
    let artifact = artifact.ok_or_else(|| {
        refuse(
            &code::ARTIFACT_NOT_FOUND,
            format!("the application's organization has no artifact {id}"),
        )
    })?;
    if artifact.state != ArtifactState::Ready {
        let detail = format!("artifact {id} was not uploaded yet; send its bytes to /artifacts/{id}/upload");
        return Err(refuse(&code::ARTIFACT_NOT_READY, detail));
    }
    if artifact.kind == ArtifactKind::Source {
        let detail = format!("artifact {id} holds sources; build them first, or upload a binary or a bundle");
        return Err(refuse(&code::ARTIFACT_KIND_MISMATCH, detail));
    }
    if artifact.size == Some(0) {
        let detail = format!("artifact {id} is empty; upload a program, or a bundle of one");
        return Err(refuse(&code::ARTIFACT_KIND_MISMATCH, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> DeploymentRequest {
        DeploymentRequest {
            image: Some(name.into()),
            ..DeploymentRequest::default()
        }
    }

    #[test]
    fn a_program_of_the_request_replaces_that_of_the_application_wholly() {
        let request = DeploymentRequest {
            artifact_id: Some(ArtifactId::new()),
            ..DeploymentRequest::default()
        };
        let wanted = with_defaults_program(&request, &image("nginx"));
        assert_eq!(
            (wanted.image.as_deref(), wanted.artifact_id),
            (None, request.artifact_id)
        );
        let spec = wanted
            .resolve(&without_program(&image("nginx")))
            .expect("no mix of both");
        assert_eq!(spec.process_type, ProcessType::Tish);
        let inherited = with_defaults_program(&DeploymentRequest::default(), &image("nginx"));
        assert_eq!(inherited.image.as_deref(), Some("nginx"));
    }

    #[test]
    fn the_cluster_caps_the_runtime() {
        let mut spec = DeploymentRequest::default()
            .resolve(&DeploymentRequest::default())
            .expect("defaults are valid");
        cap_runtime(&mut spec, 0).expect("no cap");
        assert_eq!(spec.max_runtime_secs, None);
        cap_runtime(&mut spec, 60).expect("capped");
        assert_eq!(spec.max_runtime_secs, Some(60));
        spec.max_runtime_secs = Some(61);
        assert!(cap_runtime(&mut spec, 60).is_err());
    }
}
