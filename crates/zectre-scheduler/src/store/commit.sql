-- One batch of decisions in one round trip. Nothing is written unless the leader's row still has the epoch $1:
-- every part reads from `lead`, which locks that row, so an election waits for this and this for an election.
WITH lead AS MATERIALIZED (
    SELECT CASE WHEN $2::bool THEN raise_routing_epoch() ELSE $3::bigint END AS raised
      FROM scheduler_leader WHERE epoch = $1 FOR SHARE
),
-- An update, not an upsert: a node is made by its registration, and one that was deleted stays deleted.
saved_nodes AS (
    UPDATE nodes n SET name = s.name, address = s.address, actions_port = s.actions_port,
           labels = s.labels::jsonb, cpu_millis = s.cpu, memory_bytes = s.memory, task_slots = s.slots,
           port_min = s.port_min, port_max = s.port_max, container_enabled = s.containers,
           enforcement = s.enforcement::jsonb, status = s.status, lease_expires_at = s.lease,
           registered_at = LEAST(n.registered_at, s.registered)
      FROM lead, unnest($4::uuid[], $5::text[], $6::text[], $7::int[], $8::text[], $9::bigint[], $10::bigint[],
                        $11::int[], $12::int[], $13::int[], $14::bool[], $15::text[], $16::text[],
                        $17::timestamptz[], $18::timestamptz[])
           AS s(id, name, address, actions_port, labels, cpu, memory, slots, port_min, port_max, containers,
                enforcement, status, lease, registered)
     WHERE n.id = s.id
),
saved_tasks AS (
    INSERT INTO tasks (id, deployment_id, slot, node_id, state, wanted, reason, message, generation, address, port,
                       healthy, routed, unrouted_epoch, drain_until, restarts, not_before, exit_code, signal, phases,
                       created_at, started_at, running_at, finished_at)
    SELECT t.id, t.deployment_id, t.slot, n.id, t.state, t.wanted, t.reason, t.message, t.generation, t.address, t.port,
           t.healthy, t.routed, CASE WHEN t.awaited THEN lead.raised ELSE t.unrouted_epoch END, t.drain_until,
           t.restarts, t.not_before, t.exit_code, t.signal, t.phases::jsonb, t.created_at, t.started_at, t.running_at,
           t.finished_at
      FROM lead
     CROSS JOIN unnest($19::uuid[], $20::uuid[], $21::int[], $22::uuid[], $23::text[], $24::text[], $25::text[],
                       $26::text[], $27::bigint[], $28::text[], $29::int[], $30::bool[], $31::bool[], $32::bool[],
                       $33::bigint[], $34::timestamptz[], $35::int[], $36::timestamptz[], $37::int[], $38::int[],
                       $39::text[], $40::timestamptz[], $41::timestamptz[], $42::timestamptz[], $43::timestamptz[])
           AS t(id, deployment_id, slot, node_id, state, wanted, reason, message, generation, address, port, healthy,
                routed, awaited, unrouted_epoch, drain_until, restarts, not_before, exit_code, signal, phases,
                created_at, started_at, running_at, finished_at)
      -- A deployment that was deleted meanwhile has no tasks, and a node that was has none either.
      JOIN deployments d ON d.id = t.deployment_id
      LEFT JOIN nodes n ON n.id = t.node_id
    ON CONFLICT (id) DO UPDATE SET
        node_id = EXCLUDED.node_id, state = EXCLUDED.state, wanted = EXCLUDED.wanted, reason = EXCLUDED.reason,
        message = EXCLUDED.message, generation = EXCLUDED.generation, address = EXCLUDED.address,
        port = EXCLUDED.port, healthy = EXCLUDED.healthy, routed = EXCLUDED.routed,
        unrouted_epoch = EXCLUDED.unrouted_epoch, drain_until = EXCLUDED.drain_until,
        restarts = EXCLUDED.restarts, not_before = EXCLUDED.not_before, exit_code = EXCLUDED.exit_code,
        signal = EXCLUDED.signal, phases = EXCLUDED.phases, started_at = EXCLUDED.started_at,
        running_at = EXCLUDED.running_at, finished_at = EXCLUDED.finished_at
),
saved_deployments AS (
    UPDATE deployments d SET
           artifact_id = COALESCE(d.artifact_id, s.artifact_id), status = s.status, reason = s.reason,
           message = s.message, evidence = s.evidence::jsonb, health = s.health, asleep = s.asleep,
           previous_deployment_id = s.previous, rollout_started_at = s.rollout, finished_at = s.finished, promoted_at = s.promoted
      FROM lead, unnest($44::uuid[], $45::uuid[], $46::text[], $47::text[], $48::text[], $49::text[], $50::text[],
                        $51::bool[], $52::uuid[], $53::timestamptz[], $54::timestamptz[], $71::timestamptz[])
           AS s(id, artifact_id, status, reason, message, evidence, health, asleep, previous, rollout, finished,
                promoted)
     WHERE d.id = s.id
),
saved_environments AS (
    UPDATE environments e SET current_deployment_id = c.id, target_deployment_id = t.id, target_weight = s.weight
      FROM lead
     CROSS JOIN unnest($55::uuid[], $56::uuid[], $57::uuid[], $58::smallint[]) AS s(id, current, target, weight)
      LEFT JOIN deployments c ON c.id = s.current
      LEFT JOIN deployments t ON t.id = s.target
     WHERE e.id = s.id
),
saved_events AS (
    INSERT INTO events (id, time, actor, action, application_id, deployment_id, task_id, node_id, message, reason,
                        request_id)
    SELECT s.*
      FROM lead, unnest($59::uuid[], $60::timestamptz[], $61::text[], $62::text[], $63::uuid[], $64::uuid[],
                        $65::uuid[], $66::uuid[], $67::text[], $68::text[], $69::text[])
           AS s(id, time, actor, action, application, deployment, task, node, message, reason, request)
),
applied_operations AS (
    UPDATE operations o SET applied_at = now() FROM lead, unnest($70::bigint[]) AS s(id) WHERE o.id = s.id
),
saved_wakes AS (
    INSERT INTO node_wakes (step_secs, node_id, at, wakes)
    SELECT 10, s.node, s.at, s.wakes
      FROM lead, unnest($72::uuid[], $73::timestamptz[], $74::bigint[]) AS s(node, at, wakes)
    ON CONFLICT (node_id, step_secs, at) DO UPDATE SET wakes = node_wakes.wakes + EXCLUDED.wakes
)
SELECT raised FROM lead
