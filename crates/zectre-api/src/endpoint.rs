//! Registering endpoints: handler, description and policy in one place; without a policy there is no endpoint.

use crate::{
    context::Context,
    idempotency,
    policy::{Guard, Policy, enforce},
};
use axum::{
    extract::DefaultBodyLimit,
    middleware::{from_fn, from_fn_with_state},
};
use utoipa::openapi::{
    OpenApi,
    extensions::Extensions,
    path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem},
    security::SecurityRequirement,
};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use zectre_service::extract::without_body;

/// One endpoint.
pub(crate) struct Endpoint {
    policy: Policy,
    creates: bool,
    patient: bool,
    body_bytes_max: Option<usize>,
    described: UtoipaMethodRouter<Context>,
}

/// An endpoint for whom the policy says.
pub(crate) fn endpoint(policy: Policy, described: UtoipaMethodRouter<Context>) -> Endpoint {
    Endpoint {
        policy,
        creates: false,
        patient: false,
        body_bytes_max: None,
        described,
    }
}

impl Endpoint {
    /// Honours `Idempotency-Key`.
    pub(crate) fn creates(mut self) -> Self {
        self.creates = true;
        self
    }

    /// May take as long as it needs.
    pub(crate) fn patient(mut self) -> Self {
        self.patient = true;
        self
    }

    /// Takes a larger body than `[api].body_bytes_max`.
    pub(crate) fn body_bytes_max(mut self, bytes: usize) -> Self {
        self.body_bytes_max = Some(bytes);
        self
    }

    /// Into the router, behind its guard.
    pub(crate) fn route(self, router: OpenApiRouter<Context>, context: &Context) -> OpenApiRouter<Context> {
        let guard = Guard {
            context: context.clone(),
            policy: self.policy,
            patient: self.patient,
        };
        let (creates, body_bytes_max) = (self.creates, self.body_bytes_max);
        let (schemas, mut paths, methods) = self.described();
        // What the description doesn't promise to read is refused, so no handler can forget to.
        let takes_body = paths
            .paths
            .values_mut()
            .flat_map(operations)
            .any(|operation| operation.request_body.is_some());
        let methods = if takes_body {
            methods
        } else {
            methods.route_layer(from_fn(without_body))
        };
        let methods = match body_bytes_max {
            Some(bytes) => methods.route_layer(DefaultBodyLimit::max(bytes)),
            None => methods,
        };
        // The guard comes last, and so is outermost: nothing runs for those it refuses.
        let methods = if creates {
            methods.route_layer(from_fn_with_state(context.clone(), idempotency::once))
        } else {
            methods
        };
        router.routes((
            schemas,
            paths,
            methods.route_layer(from_fn_with_state(guard, enforce)),
        ))
    }

    /// Into the document alone.
    pub(crate) fn describe(self, router: OpenApiRouter<Context>) -> OpenApiRouter<Context> {
        let described = self.described();
        router.routes(described)
    }

    /// The description with what the policy adds to it.
    fn described(self) -> UtoipaMethodRouter<Context> {
        let (schemas, mut paths, methods) = self.described;
        for item in paths.paths.values_mut() {
            for operation in operations(item) {
                annotate(operation, self.policy, self.creates);
            }
        }
        (schemas, paths, methods)
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.patch,
    ]
    .into_iter()
    .flatten()
}

fn annotate(operation: &mut Operation, policy: Policy, creates: bool) {
    operation
        .extensions
        .get_or_insert_with(Extensions::default)
        .insert("x-policy".into(), policy.describe().into());
    let none: [&str; 0] = [];
    operation.security = Some(match policy {
        Policy::Public => Vec::new(),
        Policy::TaskAgent => vec![SecurityRequirement::new("token", none)],
        _ => vec![
            SecurityRequirement::new("token", none),
            SecurityRequirement::new("api_key", none),
        ],
    });
    if creates {
        let key: Parameter = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .description(Some(
                "Repeated with the same key, the request has one effect and one answer.",
            ))
            .build();
        operation.parameters.get_or_insert_with(Vec::new).push(key.into());
    }
}

/// The whole document.
pub(crate) fn document(endpoints: Vec<Endpoint>, base: OpenApi, prefix: &str) -> OpenApi {
    let inner = endpoints
        .into_iter()
        .fold(OpenApiRouter::new(), |router, endpoint| endpoint.describe(router));
    OpenApiRouter::<Context>::with_openapi(base)
        .nest(prefix, inner)
        .into_openapi()
}
