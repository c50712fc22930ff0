//! The environment of a task: nothing of the agent's own gets in.

use std::collections::BTreeMap;
use zectre_common::{id::TaskId, spec::ASSIGNED_ENV, wire::agent::TaskOrder};

/// Where programs that a task starts are looked for.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The whole environment. What the platform assigns wins over what the order says; its mere defaults don't.
pub(super) fn environment(task: TaskId, order: &TaskOrder, port: u16) -> BTreeMap<String, String> {
    // Rounded up: a share of a core is one worker.
    let workers = order.resources.cpu.0.div_ceil(1_000).max(1);
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        // Without it a Tish server starts a process for each core of the machine, whatever its limit.
        ("TISH_HTTP_WORKERS".to_owned(), workers.to_string()),
    ]);
    env.extend(order.env.clone());
    let assigned = [
        port.to_string(),
        order.deployment_id.to_string(),
        task.to_string(),
        order.application.clone(),
        order.namespace.clone(),
        order.environment.clone(),
    ];
    env.extend(ASSIGNED_ENV.map(str::to_owned).into_iter().zip(assigned));
    // The operating system can't hold them; a variable that slipped in must not keep the rest from starting.
    env.retain(|key, value| !key.is_empty() && !key.contains(['=', '\0']) && !value.contains('\0'));
    env
}
