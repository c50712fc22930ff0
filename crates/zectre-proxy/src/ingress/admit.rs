//! Whether the proxy has room for a request at all, asked before anything is done for it.

use super::{
    client::ClientKey,
    rate::{Clients, Rate},
    refusal::{Refusal, Whose},
};
use crate::{live::Traffic, metrics::Metrics};
use std::net::IpAddr;
use zectre_common::config::ProxyLimits;

/// The door. What is not limited costs a comparison.
#[derive(Debug)]
pub struct Door {
    in_flight_max: u32,
    in_flight_per_route_max: u32,
    clients: Option<Clients>,
    per_route: Option<Rate>,
}

impl Door {
    /// With the bounds of the configuration.
    pub fn new(limits: &ProxyLimits) -> Self {
        let per_client = Rate::new(
            limits.requests_per_sec_per_client,
            limits.requests_burst_per_client,
        );
        Self {
            in_flight_max: limits.in_flight_max,
            in_flight_per_route_max: limits.in_flight_per_route_max,
            clients: per_client.map(|rate| Clients::new(rate, limits.clients_max)),
            per_route: Rate::new(limits.requests_per_sec_per_route, limits.requests_burst_per_route),
        }
    }

    /// Whether `client` may make a request, which is counted as under way by now. The clock is asked only where it matters.
    pub(super) fn admit(
        &self,
        metrics: &Metrics,
        client: IpAddr,
        now_ns: impl FnOnce() -> u64,
    ) -> Result<(), Refusal> {
        if self.in_flight_max > 0 && metrics.in_flight.get() > i64::from(self.in_flight_max) {
            return Err(Refusal::Overloaded(Whose::Proxy));
        }
        match &self.clients {
            Some(clients) => clients
                .take(ClientKey::new(client), now_ns())
                .map_err(|wait| Refusal::TooManyRequests(Whose::Client, wait)),
            None => Ok(()),
        }
    }

    /// Whether a deployment takes one more request, which is counted as its own by now.
    pub(super) fn admit_to(&self, traffic: &Traffic, now_ns: impl FnOnce() -> u64) -> Result<(), Refusal> {
        if self.in_flight_per_route_max > 0 && traffic.in_flight() > self.in_flight_per_route_max {
            return Err(Refusal::Overloaded(Whose::Application));
        }
        match self.per_route {
            Some(rate) => traffic
                .route()
                .meter
                .take(rate, now_ns())
                .map_err(|wait| Refusal::TooManyRequests(Whose::Application, wait)),
            None => Ok(()),
        }
    }
}
