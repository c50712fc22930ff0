//! One environment of an application, whichever deployment serves it: what is measured and limited outlives deployments.

use crate::ingress::rate::Meter;

/// A route.
#[derive(Debug, Default)]
pub struct Route {
    /// Of the rate that is allowed for it.
    pub meter: Meter,
}
