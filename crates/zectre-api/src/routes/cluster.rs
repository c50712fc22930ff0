//! The cluster at a glance.

use crate::handler::routes;
use crate::{
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::Error,
    policy::Policy,
    store::{node, proxy},
};
use axum::extract::State;
use std::time::Duration;
use zectre_common::wire::cluster::{ClusterStatus, Readiness, ServiceStatus};
use zectre_service::{extract::Json, token::name};

/// A service that takes longer does not count as ready.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![endpoint(Policy::ClusterAdmin, routes!(status))]
}

/// How the services and nodes are.
#[utoipa::path(get, path = "/cluster/status", tag = "cluster",
               responses((status = 200, description = "The status", body = ClusterStatus)))]
async fn status(State(context): State<Context>) -> Result<Json<ClusterStatus>, Error> {
    let urls = &context.urls;
    let scheduler = context.scheduler.url();
    let asked = [
        (name::SCHEDULER, &*scheduler),
        (name::REGISTRY, urls.registry.as_str()),
        (name::BUILD, urls.build.as_str()),
        (name::PROXY, urls.proxy_admin.as_str()),
    ];
    let answers = futures_util::future::join_all(asked.map(|(service, url)| ask(&context, service, url)));
    let (others, counts, proxies) =
        tokio::join!(answers, node::counts(&context.pool), proxy::live(&context.pool));
    let (counts, proxies) = (counts?, proxies?);
    // Whoever reads this has its answer: the API is ready.
    let mut services = vec![ServiceStatus {
        name: name::API.into(),
        ready: true,
        reasons: Vec::new(),
    }];
    services.extend(others);
    Ok(Json(ClusterStatus {
        version: env!("CARGO_PKG_VERSION").into(),
        domain: urls.domain.clone(),
        services,
        proxies,
        nodes_ready: counts.nodes_ready as u32,
        nodes_total: counts.nodes_total as u32,
        applications: counts.applications as u32,
        tasks_running: counts.tasks_running as u32,
    }))
}

async fn ask(context: &Context, service: &str, url: &str) -> ServiceStatus {
    let answer = async {
        // 503 carries the reasons too: the status says nothing that the body doesn't.
        let response = context
            .caller
            .raw()
            .get(format!("{url}/ready"))
            .timeout(ANSWER_TIMEOUT)
            .send()
            .await?;
        response.json::<Readiness>().await
    };
    match answer.await {
        Ok(readiness) => ServiceStatus {
            name: service.into(),
            ready: readiness.ready,
            reasons: readiness.reasons,
        },
        Err(error) => {
            tracing::debug!(service, %error, "no readiness");
            let reason = format!("{url} does not answer");
            ServiceStatus {
                name: service.into(),
                ready: false,
                reasons: vec![reason],
            }
        }
    }
}
