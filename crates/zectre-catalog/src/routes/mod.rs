//! The catalog's HTTP interface. [`routes`] is the one list of what there is and who may call it.

mod authorize;
mod browser;
mod clusters;
mod cookie;
mod events;
mod form;
mod github;
mod invitations;
mod login;
mod me;
mod members;
mod organizations;
mod token;
mod well_known;

use crate::{
    config::{CLI_CLIENT, Config, LimitsConfig},
    core::redirect,
    github::Github,
    keys::Keyring,
    metrics::Logins,
    policy::{Guard, Policy, enforce},
};
use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::from_fn_with_state,
    routing::{self, MethodRouter},
};
use sqlx::PgPool;
use std::{collections::BTreeMap, ops::Deref, sync::Arc};
use zectre_common::state::Role;
use zectre_service::key::MasterKey;

/// The largest body: forms and small documents.
const BODY_BYTES_MAX: usize = 16 << 10;

/// What handlers share.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// The inside of [`App`].
pub struct Shared {
    pub(crate) pool: PgPool,
    pub(crate) keyring: Keyring,
    pub(crate) github: Github,
    pub(crate) master: MasterKey,
    pub(crate) issuer: String,
    pub(crate) access_ttl_secs: u64,
    pub(crate) session_ttl_secs: u64,
    pub(crate) limits: LimitsConfig,
    pub(crate) logins: Logins,
    /// Where each client may have codes sent.
    clients: BTreeMap<String, Vec<String>>,
}

impl Deref for App {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    /// What the configuration says, with what was opened for it.
    pub fn new(
        config: &Config,
        pool: PgPool,
        keyring: Keyring,
        github: Github,
        master: MasterKey,
        logins: Logins,
    ) -> Self {
        let cli = (
            CLI_CLIENT.to_owned(),
            redirect::CLI_REDIRECTS.map(str::to_owned).to_vec(),
        );
        let others = config
            .clients
            .iter()
            .map(|one| (one.id.clone(), one.redirect_uris.clone()));
        Self(Arc::new(Shared {
            pool,
            keyring,
            github,
            master,
            issuer: config.server.public_url.clone(),
            access_ttl_secs: config.tokens.access_ttl_secs,
            session_ttl_secs: config.tokens.session_ttl_secs,
            limits: config.limits.clone(),
            logins,
            clients: others.chain([cli]).collect(),
        }))
    }

    /// Whether nobody on the way reads what goes to the issuer's address.
    pub(crate) fn issuer_is_safe(&self) -> bool {
        redirect::may_be_registered(&self.issuer)
    }

    /// Whether `client` may have codes sent to `redirect_uri`.
    pub(crate) fn may_redirect(&self, client: &str, redirect_uri: &str) -> bool {
        self.clients.get(client).is_some_and(|registered| {
            registered
                .iter()
                .any(|registered| redirect::matches(registered, redirect_uri))
        })
    }
}

/// One route.
pub struct Route {
    /// The method, in capitals.
    pub method: &'static str,
    /// The path, with `{}` for what it names.
    pub path: &'static str,
    /// Who may call it.
    pub policy: Policy,
    handler: MethodRouter<App>,
}

macro_rules! routes {
    ($($method:ident $path:literal, $policy:expr => $handler:expr;)*) => {
        /// Everything there is beside `/health`, `/ready` and `/metrics`.
        pub fn routes() -> Vec<Route> {
            use Policy::{Cluster, Named, Organization, Public, SignedIn};
            use Role::{Admin, Owner, Viewer};
            vec![$(Route {
                method: stringify!($method),
                path: $path,
                policy: $policy,
                handler: routes!(@ $method)($handler),
            },)*]
        }
    };
    (@ GET) => { routing::get };
    (@ POST) => { routing::post };
    (@ PUT) => { routing::put };
    (@ DELETE) => { routing::delete };
}

routes! {
    GET "/.well-known/jwks.json", Public => well_known::jwks;
    GET "/.well-known/openid-configuration", Public => well_known::metadata;
    GET "/.well-known/oauth-authorization-server", Public => well_known::metadata;
    GET "/oauth/authorize", Public => authorize::begin;
    GET "/oauth/github/callback", Public => authorize::finish;
    POST "/oauth/consent", Public => authorize::consent;
    POST "/oauth/token", Public => token::token;
    POST "/oauth/revoke", Public => token::revoke;
    GET "/api/v1/me", SignedIn => me::get;
    GET "/api/v1/me/events", SignedIn => events::mine;
    GET "/api/v1/orgs", SignedIn => organizations::list;
    POST "/api/v1/orgs", SignedIn => organizations::create;
    GET "/api/v1/orgs/{slug}", Organization(Viewer) => organizations::get;
    DELETE "/api/v1/orgs/{slug}", Organization(Owner) => organizations::delete;
    GET "/api/v1/orgs/{slug}/events", Organization(Admin) => events::of_organization;
    GET "/api/v1/orgs/{slug}/members", Organization(Viewer) => members::list;
    PUT "/api/v1/orgs/{slug}/members/{user_id}", Organization(Admin) => members::set;
    DELETE "/api/v1/orgs/{slug}/members/{user_id}", Organization(Viewer) => members::remove;
    GET "/api/v1/orgs/{slug}/invitations", Organization(Admin) => invitations::list;
    POST "/api/v1/orgs/{slug}/invitations", Organization(Admin) => invitations::create;
    DELETE "/api/v1/orgs/{slug}/invitations/{id}", Organization(Admin) => invitations::delete;
    POST "/api/v1/invitations/accept", SignedIn => invitations::accept;
    GET "/api/v1/orgs/{slug}/github", Organization(Admin) => github::list;
    PUT "/api/v1/orgs/{slug}/github/{github_org_id}", Organization(Owner) => github::set;
    DELETE "/api/v1/orgs/{slug}/github/{github_org_id}", Organization(Owner) => github::delete;
    GET "/api/v1/clusters", SignedIn => clusters::list;
    POST "/api/v1/clusters", Named(Admin) => clusters::create;
    GET "/api/v1/clusters/{id}", Cluster(Viewer) => clusters::get;
    PUT "/api/v1/clusters/{id}", Cluster(Admin) => clusters::update;
    DELETE "/api/v1/clusters/{id}", Cluster(Admin) => clusters::delete;
}

/// All routes, each behind its policy.
pub fn router(app: &App) -> Router {
    let guarded = routes().into_iter().fold(Router::new(), |router, route| {
        let guard = Guard {
            app: app.clone(),
            policy: route.policy,
        };
        router.route(
            route.path,
            route.handler.route_layer(from_fn_with_state(guard, enforce)),
        )
    });
    guarded
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(app.clone())
}
