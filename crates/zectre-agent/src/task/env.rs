//! The environment of a task: nothing of the agent's own gets in.

use std::collections::BTreeMap;
use zectre_common::{id::TaskId, wire::agent::TaskOrder};

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
        ("PORT", port.to_string()),
        ("DEPLOYMENT_ID", order.deployment_id.to_string()),
        ("TASK_ID", task.to_string()),
        ("ZECTRE_APP", order.application.clone()),
        ("ZECTRE_NAMESPACE", order.namespace.clone()),
        ("ZECTRE_ENVIRONMENT", order.environment.clone()),
    ];
    env.extend(assigned.map(|(key, value)| (key.to_owned(), value)));
    // The operating system can't hold them; a variable that slipped in must not keep the rest from starting.
    env.retain(|key, value| !key.is_empty() && !key.contains(['=', '\0']) && !value.contains('\0'));
    env
}
