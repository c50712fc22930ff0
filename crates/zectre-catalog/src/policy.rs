//! Who may call what: every route has a [`Policy`], and [`enforce`] is the only place that decides.
//!
//! What belongs to organizations one is no member of answers 404, not 403: its existence is nobody's business.

use crate::{
    code,
    error::{Error, refuse},
    routes::App,
    store::{clusters, events::By, organizations, sessions, users},
};
use axum::{
    extract::{FromRequestParts, RawPathParams, Request, State, rejection::RawPathParamsRejection},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::request::Parts;
use std::net::IpAddr;
use uuid::Uuid;
use zectre_common::{
    id::ClusterId,
    state::Role,
    wire::catalog::{Cluster, Organization},
};
use zectre_service::{auth::bearer, path, problem::Failure, server::Peer};

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Anyone, known or not.
    Public,
    /// Anyone who is known; the answer is about themselves.
    SignedIn,
    /// Anyone who is known; the organization that the body names takes this role, and the handler asks [`allow`].
    Named(Role),
    /// This role in the organization `{slug}`.
    Organization(Role),
    /// This role in the organization that has the cluster `{id}`.
    Cluster(Role),
}

/// Who calls: someone with an access token for the catalog itself, of a sign-in that holds.
#[derive(Debug, Clone)]
pub struct Person {
    /// The account.
    pub user: users::UserRow,
    /// Whoever is connected.
    pub address: Option<IpAddr>,
}

impl Person {
    /// Who does what they ask for.
    pub fn by(&self) -> By {
        self.user.by(self.address)
    }
}

/// The guard of one route.
#[derive(Clone)]
pub struct Guard {
    pub(crate) app: App,
    pub(crate) policy: Policy,
}

/// Whether `role` is enough; no role at all is not.
pub fn allow(role: Option<Role>, least: Role) -> Result<(), Error> {
    match role {
        Some(role) if role >= least => Ok(()),
        Some(role) => Err(refuse(
            &code::FORBIDDEN,
            format!("this takes the role `{least}` in the organization; yours is `{role}`"),
        )),
        None => Err(refuse(
            &code::FORBIDDEN,
            "you are no member of the organization any more",
        )),
    }
}

/// Lets a request through when the policy allows it, with who calls and what the path names as extensions.
pub async fn enforce(
    State(guard): State<Guard>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let Ok(params) = params else {
        return refuse(&code::INVALID_PATH, "the path is not valid UTF-8 once decoded").into_response();
    };
    let (mut parts, body) = request.into_parts();
    if let Err(error) = admit(&guard, &params, &mut parts).await {
        return error.into_response();
    }
    request = Request::from_parts(parts, body);
    next.run(request).await
}

async fn admit(guard: &Guard, params: &RawPathParams, parts: &mut Parts) -> Result<(), Error> {
    let app = &guard.app;
    if guard.policy == Policy::Public {
        return Ok(());
    }
    let person = authenticate(app, parts).await?;
    match guard.policy {
        Policy::Public | Policy::SignedIn | Policy::Named(_) => {}
        Policy::Organization(least) => {
            let slug = path::text(params, "slug").map_err(bad_path)?;
            let found = organizations::of_member(&app.pool, slug, person.user.id).await?;
            let organization = found.ok_or_else(|| no_organization(slug))?;
            allow(Some(organization.role), least)?;
            parts.extensions.insert(organization);
        }
        Policy::Cluster(least) => {
            let id: ClusterId = path::parsed(params, "id").map_err(bad_path)?;
            let found = clusters::of_member(&app.pool, id, person.user.id).await?;
            let (cluster, role) =
                found.ok_or_else(|| refuse(&code::CLUSTER_NOT_FOUND, format!("there is no cluster {id}")))?;
            allow(Some(role), least)?;
            parts.extensions.insert(cluster);
        }
    }
    parts.extensions.insert(person);
    Ok(())
}

fn bad_path(why: String) -> Error {
    refuse(&code::INVALID_PATH, why)
}

/// The answer about an organization that is not there, or not for the caller.
pub(crate) fn no_organization(slug: &str) -> Error {
    let shown: String = slug.chars().take(64).collect();
    refuse(
        &code::ORGANIZATION_NOT_FOUND,
        format!("there is no organization `{shown}`"),
    )
}

async fn authenticate(app: &App, parts: &Parts) -> Result<Person, Error> {
    let unauthenticated = |detail: &str| refuse(&code::UNAUTHENTICATED, detail);
    let token = bearer(&parts.headers).ok_or_else(|| {
        unauthenticated("send an access token for the catalog as bearer: sign in with `zectre login`")
    })?;
    let ended =
        || unauthenticated("the access token is not valid here, or has ended: refresh it, or sign in again");
    let claims = app
        .keyring
        .verify(token, &app.issuer, &app.issuer)
        .ok_or_else(ended)?;
    let session: Uuid = claims.sid.parse().map_err(|_| ended())?;
    if !sessions::is_live(&app.pool, session, claims.sub).await? {
        return Err(ended());
    }
    let user = users::get(&mut *app.pool.acquire().await?, claims.sub)
        .await?
        .ok_or_else(ended)?;
    let address = parts.extensions.get::<Peer>().map(|peer| peer.0.ip());
    Ok(Person { user, address })
}

/// An extension that the guard left is an argument of the handler.
#[derive(Debug, Clone)]
pub struct Granted<T>(pub T);

macro_rules! from_guard {
    ($($type:ty),*) => {$(
        impl<S: Send + Sync> FromRequestParts<S> for Granted<$type> {
            type Rejection = Failure;
            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
                parts.extensions.get::<$type>().cloned().map(Self).ok_or_else(|| {
                    Failure::internal(concat!("the route's policy gives no ", stringify!($type)))
                })
            }
        }
    )*};
}
from_guard!(Person, Organization, Cluster);
