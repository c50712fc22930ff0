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
    ContentBuilder, OpenApi, Ref, ResponseBuilder,
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
    streams: bool,
    body_bytes_max: Option<usize>,
    described: UtoipaMethodRouter<Context>,
}

/// An endpoint for whom the policy says.
pub(crate) fn endpoint(policy: Policy, described: UtoipaMethodRouter<Context>) -> Endpoint {
    Endpoint {
        policy,
        creates: false,
        patient: false,
        streams: false,
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

    /// Answers with a stream.
    pub(crate) fn streams(mut self) -> Self {
        self.streams = true;
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
            streams: self.streams,
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

    /// The description with what the policy and the way of every request add to it.
    fn described(self) -> UtoipaMethodRouter<Context> {
        let (schemas, mut paths, methods) = self.described;
        for (path, item) in &mut paths.paths {
            let is_read = item.get.is_some();
            for operation in operations(item) {
                annotate(operation, self.policy, self.creates);
                add_problems(operation, path, self.policy, is_read);
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

/// The problems that a request may be answered with, beside what its own description says.
fn add_problems(operation: &mut Operation, path: &str, policy: Policy, is_read: bool) {
    let (is_public, takes_body) = (matches!(policy, Policy::Public), operation.request_body.is_some());
    let checks_secret = ["/auth/", "/invitations/", "/webhooks/github"]
        .iter()
        .any(|begin| path.starts_with(begin));
    let problems = [
        ("400", true, "The path, the query or the body does not fit"),
        (
            "401",
            !is_public || checks_secret,
            "Nobody is signed in, or not with this",
        ),
        ("403", !is_public || checks_secret, "Not for you"),
        ("404", !is_public || takes_body, "There is no such thing, for you"),
        (
            "409",
            !is_read || path.ends_with("/download"),
            "It does not go with what there is",
        ),
        (
            "411",
            takes_body && ["/upload", "/builds"].iter().any(|end| path.ends_with(end)),
            "Under a quota of bytes, say how many come",
        ),
        ("413", !is_read, "The body is too large"),
        ("415", takes_body, "The body is of another kind"),
        (
            "416",
            path.ends_with("/download"),
            "There is nothing of this range",
        ),
        ("422", takes_body, "The body is not what it was said to be"),
        (
            "429",
            checks_secret || !is_read || path.ends_with("/stream"),
            "Too many at once; see Retry-After",
        ),
        ("503", true, "Not now; see Retry-After"),
        ("504", true, "It took too long"),
    ];
    for (status, _, description) in problems.into_iter().filter(|(_, may_be, _)| *may_be) {
        let problem = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("Problem")))
            .build();
        let problem = ResponseBuilder::new()
            .description(description)
            .content(PROBLEM, problem);
        let responses = &mut operation.responses.responses;
        responses
            .entry(status.to_owned())
            .or_insert_with(|| problem.build().into());
    }
}

/// The media type of problems (RFC 9457).
const PROBLEM: &str = "application/problem+json";

/// The whole document.
pub(crate) fn document(endpoints: Vec<Endpoint>, base: OpenApi, prefix: &str) -> OpenApi {
    let inner = endpoints
        .into_iter()
        .fold(OpenApiRouter::new(), |router, endpoint| endpoint.describe(router));
    OpenApiRouter::<Context>::with_openapi(base)
        .nest(prefix, inner)
        .into_openapi()
}
