//! One environment of an application, whichever deployment serves it: what is measured and limited outlives deployments.

use super::red::{Red, Series};
use crate::ingress::rate::Meter;
use std::sync::{Arc, OnceLock};

/// What people call a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteName {
    /// The application's label under the platform domain.
    pub app: Box<str>,
    /// The environment's name.
    pub environment: Box<str>,
}

/// A route.
#[derive(Debug)]
pub struct Route {
    name: RouteName,
    /// Of the rate that is allowed for it.
    pub meter: Meter,
    red: OnceLock<Arc<Red>>,
    series: Arc<Series>,
}

impl Route {
    /// One that had no request so far.
    pub fn new(name: RouteName, series: Arc<Series>) -> Self {
        Self {
            name,
            meter: Meter::default(),
            red: OnceLock::new(),
            series,
        }
    }

    /// What people call it.
    pub fn name(&self) -> &RouteName {
        &self.name
    }

    /// What is counted of it.
    pub fn red(&self) -> &Red {
        self.red
            .get_or_init(|| self.series.take(&self.name.app, &self.name.environment))
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        if let Some(red) = self.red.get() {
            self.series.give_back(red);
        }
    }
}
