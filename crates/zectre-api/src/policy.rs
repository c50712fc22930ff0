//! Who may call what: every endpoint is registered with a [`Policy`], and [`enforce`] is the only place that
//! decides. An endpoint without a policy can't be registered.
//!
//! Things of organizations one is no member of answer 404, not 403: their existence is nobody's business.

mod standing;

pub(crate) use standing::Standing;

use crate::{
    code,
    context::Context,
    error::{Error, refuse},
    identity::{self, Actor, Identity, Person},
    store::{organization, ownership},
};
use axum::{
    extract::{FromRequestParts, RawPathParams, Request, State, rejection::RawPathParamsRejection},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, header, request::Parts};
use std::{fmt::Display, str::FromStr, sync::Arc, time::Duration};
use zectre_common::{
    id::{ApplicationId, ArtifactId, BuildId, DeploymentId, OrganizationId, TaskId, WebhookId},
    state::Role,
    time::Time,
};
use zectre_service::{auth::bearer, path, problem::Failure, token};

/// The thing that the path names, whose organization decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    /// `{id}` of an application.
    App,
    /// `{namespace}/{name}` of an application.
    AppByName,
    /// `{subdomain}` of an application.
    AppBySubdomain,
    /// `{id}` of a deployment.
    Deployment,
    /// `{id}` of a task.
    Task,
    /// `{id}` of an artifact.
    Artifact,
    /// `{id}` of a build.
    Build,
    /// `{id}` of a webhook.
    Webhook,
    /// `{slug}` of an organization.
    Organization,
}

/// Who may call an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Anyone, known or not.
    Public,
    /// Anyone who is known; the answer is about themselves.
    User,
    /// Anyone who is known, and manages their own account: a login, or an API key without scopes.
    Account,
    /// Users with `is_admin`.
    ClusterAdmin,
    /// Anyone who is known: a list holds what they may see, and what a body names takes this role.
    Member(Role),
    /// This role in the organization that owns the thing.
    Owned(Role, Thing),
    /// The same, or one of these services.
    OwnedOrService(Role, Thing, &'static [&'static str]),
    /// The agent of the node that the task is on.
    TaskAgent,
}

impl Policy {
    /// One line for the OpenAPI document (`x-policy`).
    pub fn describe(self) -> String {
        match self {
            Self::Public => "public".into(),
            Self::User => "user".into(),
            Self::Account => "account".into(),
            Self::ClusterAdmin => "cluster_admin".into(),
            Self::Member(role) => format!("member:{role}"),
            Self::Owned(role, thing) => format!("{thing:?}:{role}").to_lowercase(),
            Self::OwnedOrService(role, thing, services) => {
                format!(
                    "{}|{}",
                    format!("{thing:?}:{role}").to_lowercase(),
                    services.join("|")
                )
            }
            Self::TaskAgent => "task_agent".into(),
        }
    }
}

/// The organizations a caller sees, and what they may do in each.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    memberships: Vec<(OrganizationId, Role)>,
    everything: bool,
    least: Role,
}

impl Reach {
    fn new(person: &Person, least: Role) -> Self {
        let memberships = person
            .memberships
            .iter()
            .map(|one| (one.organization_id, one.role))
            .collect();
        Self {
            memberships,
            everything: person.is_admin,
            least,
        }
    }

    /// The organizations whose things may be seen; `None` means all.
    pub(crate) fn organizations(&self) -> Option<Vec<OrganizationId>> {
        (!self.everything).then(|| {
            self.memberships
                .iter()
                .map(|(organization, _)| *organization)
                .collect()
        })
    }

    /// Those in which the caller has the endpoint's role; `None` means all.
    pub(crate) fn governed(&self) -> Option<Vec<OrganizationId>> {
        self.with_role(self.least)
    }

    /// Those of which the caller learns where changes came from; `None` means all.
    pub(crate) fn audited(&self) -> Option<Vec<OrganizationId>> {
        self.with_role(Role::Admin)
    }

    fn with_role(&self, least: Role) -> Option<Vec<OrganizationId>> {
        let these = self.memberships.iter().filter(|(_, role)| *role >= least);
        (!self.everything).then(|| these.map(|(organization, _)| *organization).collect())
    }

    /// Refuses unless the caller has the endpoint's role in `organization`; `hidden` is the answer to those
    /// who are not even members.
    pub(crate) fn require(&self, organization: OrganizationId, hidden: Error) -> Result<(), Error> {
        let role = self
            .memberships
            .iter()
            .find(|(id, _)| *id == organization)
            .map(|(_, role)| *role);
        allow(self.everything, role, self.least, hidden)
    }
}

fn allow(everything: bool, role: Option<Role>, least: Role, hidden: Error) -> Result<(), Error> {
    match role {
        _ if everything => Ok(()),
        None => Err(hidden),
        Some(role) if role >= least => Ok(()),
        Some(role) => Err(refuse(
            &code::FORBIDDEN,
            format!("this takes the role `{least}` in the organization; yours is `{role}`"),
        )),
    }
}

/// The guard of one endpoint.
#[derive(Clone)]
pub(crate) struct Guard {
    pub(crate) context: Context,
    pub(crate) policy: Policy,
    /// The answer may take as long as it needs: uploads, waits.
    pub(crate) patient: bool,
    /// The answer is a stream, which asks again whether its caller may have it ([`Standing`]).
    pub(crate) streams: bool,
}

/// Lets a request through when the policy allows it, with who calls as extensions.
pub(crate) async fn enforce(
    State(guard): State<Guard>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    for_the_caller_alone(decide(guard, params, request, next).await)
}

/// No cache on the way keeps an answer: to a shared one `X-API-Key` is a header like any other, and the next caller's answer
/// would be the last one's. And nothing that people upload is ever a page of this host.
fn for_the_caller_alone(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    answer
}

async fn decide(
    guard: Guard,
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(params) = params else {
        return refuse(&code::INVALID_PATH, "the path is not valid UTF-8 once decoded").into_response();
    };
    let timeout = guard.context.settings.request_timeout;
    let patient = guard.patient;
    let params = Arc::new(params);
    let answer = async move {
        let (mut parts, body) = request.into_parts();
        // Who calls is found out in time even where the answer may take as long as it needs.
        match tokio::time::timeout(timeout, admit(&guard, &params, &mut parts)).await {
            Ok(Ok(())) => next.run(Request::from_parts(parts, body)).await,
            Ok(Err(error)) => error.into_response(),
            Err(_) => late(timeout),
        }
    };
    if patient {
        return answer.await;
    }
    tokio::time::timeout(timeout, answer)
        .await
        .unwrap_or_else(|_| late(timeout))
}

fn late(timeout: Duration) -> Response {
    let detail = format!(
        "this took longer than {} s; it may still finish",
        timeout.as_secs()
    );
    refuse(&code::TIMEOUT, detail).into_response()
}

async fn admit(guard: &Guard, params: &Arc<RawPathParams>, parts: &mut Parts) -> Result<(), Error> {
    let context = &guard.context;
    let identity = match guard.policy {
        Policy::Public => Identity::Anonymous,
        Policy::TaskAgent => agent_of_task(context, params, &parts.headers).await?,
        policy => match calling_service(context, policy, &parts.headers) {
            Some(name) => Identity::Service(name),
            None => Identity::Person(Box::new(
                person_under(context, policy, params, &parts.headers, Time::now()).await?,
            )),
        },
    };
    let actor = Actor::new(&identity, parts);
    if let (true, Identity::Person(person)) = (guard.streams, &identity) {
        let standing = Standing::new(guard, params, &parts.headers, person.id);
        parts.extensions.insert(standing);
    }
    let extensions = &mut parts.extensions;
    if let Identity::Person(person) = identity {
        if let Policy::Member(least) = guard.policy {
            extensions.insert(Reach::new(&person, least));
        }
        extensions.insert(*person);
    }
    extensions.insert(actor);
    Ok(())
}

async fn person_under(
    context: &Context,
    policy: Policy,
    params: &RawPathParams,
    headers: &HeaderMap,
    as_of: Time,
) -> Result<Person, Error> {
    let person = identity::authenticate(context, headers, as_of).await?;
    if person.credential.cap().is_some_and(|cap| !cap.allows(policy)) {
        return Err(refuse(
            &code::INSUFFICIENT_SCOPE,
            "the API key's scopes do not allow this; use one with more of them, or log in",
        ));
    }
    match policy {
        Policy::ClusterAdmin if !person.is_admin => {
            return Err(refuse(&code::FORBIDDEN, "this is for admins of the cluster"));
        }
        Policy::Owned(least, thing) | Policy::OwnedOrService(least, thing, _) => {
            let (owner, hidden) = owner_of(context, thing, params).await?;
            let Some(owner) = owner else { return Err(hidden) };
            let role = person
                .memberships
                .iter()
                .find(|one| one.organization_id == owner)
                .map(|one| one.role);
            allow(person.is_admin, role, least, hidden)?;
        }
        Policy::Public
        | Policy::User
        | Policy::Account
        | Policy::ClusterAdmin
        | Policy::Member(_)
        | Policy::TaskAgent => {}
    }
    Ok(person)
}

fn calling_service(context: &Context, policy: Policy, headers: &HeaderMap) -> Option<String> {
    let Policy::OwnedOrService(_, _, callers) = policy else {
        return None;
    };
    let token = bearer(headers)?;
    token::verify_service(&context.service_key, token, token::name::API, callers).ok()
}

async fn agent_of_task(
    context: &Context,
    params: &RawPathParams,
    headers: &HeaderMap,
) -> Result<Identity, Error> {
    let unauthenticated = || {
        refuse(
            &code::UNAUTHENTICATED,
            "this endpoint is for agents: send the node's token as bearer",
        )
    };
    let token = bearer(headers).ok_or_else(unauthenticated)?;
    let node =
        token::verify_node(&context.service_key, token, token::name::API).map_err(|_| unauthenticated())?;
    let id: TaskId = id_param(params, "id")?;
    match ownership::node_of_task(&context.pool, id).await? {
        Some(owner) if owner == node => Ok(Identity::Node(node)),
        _ => Err(refuse(
            &code::TASK_NOT_FOUND,
            format!("no task {id} is on this node"),
        )),
    }
}

/// The organization that owns what the path names, and the answer when it is hidden.
async fn owner_of(
    context: &Context,
    thing: Thing,
    params: &RawPathParams,
) -> Result<(Option<OrganizationId>, Error), Error> {
    let pool = &context.pool;
    Ok(match thing {
        Thing::App => {
            let id: ApplicationId = id_param(params, "id")?;
            (
                ownership::of_app(pool, id).await?,
                refuse(&code::APP_NOT_FOUND, format!("there is no application {id}")),
            )
        }
        Thing::AppByName => {
            let (namespace, name) = (text_param(params, "namespace")?, text_param(params, "name")?);
            let hidden = refuse(
                &code::APP_NOT_FOUND,
                format!("there is no application {namespace}/{name}"),
            );
            (ownership::of_app_by_name(pool, namespace, name).await?, hidden)
        }
        Thing::AppBySubdomain => {
            let subdomain = text_param(params, "subdomain")?;
            let hidden = refuse(
                &code::APP_NOT_FOUND,
                format!("no application has the subdomain {subdomain}"),
            );
            (ownership::of_app_by_subdomain(pool, subdomain).await?, hidden)
        }
        Thing::Deployment => {
            let id: DeploymentId = id_param(params, "id")?;
            let hidden = refuse(
                &code::DEPLOYMENT_NOT_FOUND,
                format!("there is no deployment {id}"),
            );
            (ownership::of_deployment(pool, id).await?, hidden)
        }
        Thing::Task => {
            let id: TaskId = id_param(params, "id")?;
            (
                ownership::of_task(pool, id).await?,
                refuse(&code::TASK_NOT_FOUND, format!("there is no task {id}")),
            )
        }
        Thing::Artifact => {
            let id: ArtifactId = id_param(params, "id")?;
            let hidden = refuse(&code::ARTIFACT_NOT_FOUND, format!("there is no artifact {id}"));
            (ownership::of_artifact(pool, id).await?, hidden)
        }
        Thing::Build => {
            let id: BuildId = id_param(params, "id")?;
            (
                ownership::of_build(pool, id).await?,
                refuse(&code::BUILD_NOT_FOUND, format!("there is no build {id}")),
            )
        }
        Thing::Webhook => {
            let id: WebhookId = id_param(params, "id")?;
            let hidden = refuse(&code::WEBHOOK_NOT_FOUND, format!("there is no webhook {id}"));
            (ownership::of_webhook(pool, id).await?, hidden)
        }
        Thing::Organization => {
            let slug = text_param(params, "slug")?;
            let hidden = refuse(
                &code::ORGANIZATION_NOT_FOUND,
                format!("there is no organization `{slug}`"),
            );
            (organization::by_slug(pool, slug).await?, hidden)
        }
    })
}

fn text_param<'p>(params: &'p RawPathParams, name: &str) -> Result<&'p str, Error> {
    path::text(params, name).map_err(|why| refuse(&code::INVALID_PATH, why))
}

fn id_param<T: FromStr<Err: Display>>(params: &RawPathParams, name: &str) -> Result<T, Error> {
    path::parsed(params, name).map_err(|why| refuse(&code::INVALID_PATH, why))
}

/// An extension that the guard left is an argument of the handler.
macro_rules! from_guard {
    ($($type:ty),*) => {$(
        impl<S: Send + Sync> FromRequestParts<S> for $type {
            type Rejection = Failure;
            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
                parts.extensions.get::<Self>().cloned().ok_or_else(|| {
                    Failure::internal(concat!("the endpoint's policy gives no ", stringify!($type)))
                })
            }
        }
    )*};
}
from_guard!(Person, Reach, Actor, Standing);
