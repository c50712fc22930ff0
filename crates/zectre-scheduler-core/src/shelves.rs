//! One shelf for each kind of need (containers, labels), so that a search meets suitable nodes only.

use super::{
    Deployment, Node,
    shelf::{Key, Shelf},
};
use std::collections::BTreeMap;
use zectre_common::{
    id::NodeId,
    spec::{Constraint, ProcessType},
};

/// The most kinds of need with a shelf of their own; the nodes of others are looked at one by one.
const KINDS_MAX: usize = 32;
/// After so many searches without a use a kind's shelf makes way for another.
const UNUSED_SEARCHES_MAX: u64 = 1_000;

/// What a deployment needs a node to be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    is_container: bool,
    constraints: Vec<Constraint>,
}

impl Kind {
    fn of(deployment: &Deployment) -> Self {
        Self {
            is_container: deployment.spec.process_type == ProcessType::Docker,
            constraints: deployment.spec.constraints.clone(),
        }
    }

    fn any() -> Self {
        Self {
            is_container: false,
            constraints: Vec::new(),
        }
    }

    fn is_met_by(&self, node: &Node) -> bool {
        meets(node, self.is_container, &self.constraints)
    }
}

/// Whether the node could run the deployment's tasks at all.
pub(super) fn is_suitable(node: &Node, deployment: &Deployment) -> bool {
    let spec = &deployment.spec;
    meets(node, spec.process_type == ProcessType::Docker, &spec.constraints)
}

fn meets(node: &Node, is_container: bool, constraints: &[Constraint]) -> bool {
    (!is_container || node.facts.container_enabled)
        && constraints
            .iter()
            .all(|constraint| constraint.is_met_by(&node.facts.labels))
}

#[derive(Debug, Clone)]
struct Row {
    kind: Kind,
    shelf: Shelf,
    used_at: u64,
}

/// All nodes that take tasks, by kind of need; the first row has every one of them.
#[derive(Debug, Clone)]
pub(super) struct Shelves {
    rows: Vec<Row>,
    searches: u64,
}

impl Default for Shelves {
    fn default() -> Self {
        let all = Row {
            kind: Kind::any(),
            shelf: Shelf::default(),
            used_at: 0,
        };
        Self {
            rows: vec![all],
            searches: 0,
        }
    }
}

impl Shelves {
    /// A node's room changed; `before` is where it stood.
    pub(super) fn shift(&mut self, node: &Node, before: Option<Key>) {
        let after = node.place();
        for row in &mut self.rows {
            if let Some(before) = before {
                row.shelf.remove(before);
            }
            if let Some(after) = after
                && row.kind.is_met_by(node)
            {
                row.shelf.insert(after, node.free_cpu());
            }
        }
    }

    /// A node went away.
    pub(super) fn remove(&mut self, before: Option<Key>) {
        for row in &mut self.rows {
            if let Some(before) = before {
                row.shelf.remove(before);
            }
        }
    }

    /// The shelf to search for the deployment. Those of a kind without its own still have to be asked
    /// whether they are suitable.
    pub(super) fn row_for(&mut self, nodes: &BTreeMap<NodeId, Node>, deployment: &Deployment) -> usize {
        let kind = Kind::of(deployment);
        self.searches += 1;
        let searches = self.searches;
        if let Some(index) = self.rows.iter().position(|row| row.kind == kind) {
            self.rows[index].used_at = searches;
            return index;
        }
        if self.rows.len() >= KINDS_MAX {
            let oldest = (1..self.rows.len()).min_by_key(|index| self.rows[*index].used_at);
            match oldest {
                Some(index) if self.rows[index].used_at + UNUSED_SEARCHES_MAX < searches => {
                    self.rows.swap_remove(index);
                }
                _ => return 0,
            }
        }
        let mut shelf = Shelf::default();
        for node in nodes.values().filter(|node| kind.is_met_by(node)) {
            if let Some(key) = node.place() {
                shelf.insert(key, node.free_cpu());
            }
        }
        self.rows.push(Row {
            kind,
            shelf,
            used_at: searches,
        });
        self.rows.len() - 1
    }

    /// The first node of a row after `after`, fullest first, with this much free memory and cpu.
    pub(super) fn first_fit(&self, row: usize, after: Option<Key>, memory: u64, cpu: u32) -> Option<Key> {
        self.rows.get(row)?.shelf.first_fit(after, memory, cpu)
    }
}
