//! The nodes that tasks are on. What is counted of a node is what its tasks answered, like a route's.

use super::red::{Red, Series};
use http::StatusCode;
use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};
use zectre_common::id::NodeId;

/// So many nodes have numbers of their own; some ten megabytes where all of them do.
const OWN_MAX: usize = 4_096;

/// A node.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    red: OnceLock<Arc<Red>>,
    series: Arc<Series>,
}

impl Node {
    /// One of its tasks answered.
    pub fn answered(&self, status: StatusCode, after: Duration) {
        let red = self
            .red
            .get_or_init(|| self.series.take(&self.id.to_string(), ""));
        red.answered(status, after);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(red) = self.red.get() {
            self.series.give_back(red);
        }
    }
}

/// Those that are known.
#[derive(Debug)]
pub(super) struct Nodes {
    known: HashMap<NodeId, Arc<Node>>,
    series: Arc<Series>,
}

impl Nodes {
    /// None yet.
    pub(super) fn new() -> Self {
        Self {
            known: HashMap::new(),
            series: Series::new(OWN_MAX),
        }
    }

    /// What is counted of them; the app of each is its id.
    pub(super) fn series(&self) -> Arc<Series> {
        Arc::clone(&self.series)
    }

    /// The one with this id.
    pub(super) fn get(&mut self, id: NodeId) -> Arc<Node> {
        let series = &self.series;
        let new = || {
            Arc::new(Node {
                id,
                red: OnceLock::new(),
                series: Arc::clone(series),
            })
        };
        Arc::clone(self.known.entry(id).or_insert_with(new))
    }

    /// Forgets those that have no task left.
    pub(super) fn settle(&mut self) {
        self.known.retain(|_, node| Arc::strong_count(node) > 1);
    }
}
