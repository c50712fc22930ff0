//! Who waits for a deployment without room is told so, as soon as no room is about to be free; and what somebody waits for doesn't sleep.

use crate::sim::Sim;
use std::{collections::BTreeSet, time::Duration};
use zectre_common::{
    id::DeploymentId,
    state::{Eligibility, NodeStatus, Reason, TaskState, Wanted},
    time::Time,
};
use zectre_scheduler_core::{Cluster, Command, Deployment};

/// The scheduler looks every second.
const REFUSAL_LATE: Duration = Duration::from_secs(3);
/// Who waits for what serves no more is told once proxies know, and one that is silent counts until its lease ends.
const DISPLACED_LATE: Duration = Duration::from_secs(30);

impl Sim {
    /// Of those who wait in the term under way. What `commands` answer is answered after this look.
    pub(super) fn check_refusals(&mut self, index: usize, id: u64, commands: &[Command], now: Time) {
        let known = std::mem::take(&mut self.checks.unrefused);
        let Some(term) = self.schedulers[index].term.as_ref().filter(|term| term.id == id) else {
            return;
        };
        let Some(cluster) = term.cluster.as_ref() else {
            return;
        };
        let answered: BTreeSet<DeploymentId> = commands.iter().filter_map(answered).collect();
        let waiting = term.waiters.keys().copied();
        let in_vain = waiting
            .filter(|id| !answered.contains(id) && (waits_in_vain(cluster, *id) || sleeps_on(cluster, *id)));
        let since = |deployment: DeploymentId| {
            let before = known.get(&deployment).copied().filter(|(of, _)| *of == id);
            (deployment, before.unwrap_or((id, now)))
        };
        self.checks.unrefused = in_vain.map(since).collect();
        let late = |id: DeploymentId| {
            if cluster.comes_back(id) {
                DISPLACED_LATE
            } else {
                REFUSAL_LATE
            }
        };
        let mut all = self.checks.unrefused.iter();
        if let Some((deployment, (_, since))) = all.find(|(id, (_, since))| now.since(*since) > late(**id)) {
            let detail =
                format!("{deployment} sleeps, or has no room, since {since}, and requests wait for it");
            self.fail("who waits for what does not come is told", detail);
        }
    }
}

fn answered(command: &Command) -> Option<DeploymentId> {
    match command {
        Command::Ready(id) => Some(*id),
        Command::WakeFailed { deployment_id, .. } => Some(*deployment_id),
        _ => None,
    }
}

/// It sleeps until somebody asks for it.
fn sleeps_on(cluster: &Cluster, id: DeploymentId) -> bool {
    let sleeps = |deployment: &Deployment| deployment.asleep && deployment.cold_start_enabled;
    cluster.deployment(id).is_some_and(sleeps)
}

/// All that is wanted of it finds no room, and nothing is on any node that is to end.
fn waits_in_vain(cluster: &Cluster, id: DeploymentId) -> bool {
    let finds_none =
        |reason: Option<Reason>| matches!(reason, Some(Reason::NoCapacity | Reason::NoEligibleNode));
    let mut wanted = cluster
        .tasks_of(id)
        .filter(|task| task.wanted == Wanted::Run)
        .peekable();
    let in_vain = wanted.peek().is_some()
        && wanted.all(|task| task.state == TaskState::Pending && finds_none(task.reason));
    let ends = || cluster.tasks().any(|task| task.wanted == Wanted::Stop);
    let is_unknown = || {
        cluster.nodes().any(|node| {
            node.has_extras && node.status == NodeStatus::Ready && node.eligibility == Eligibility::Eligible
        })
    };
    in_vain && !ends() && !is_unknown()
}
