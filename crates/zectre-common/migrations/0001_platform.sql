-- The platform database. PostgreSQL holds what is wanted and what was last seen; every message
-- between services is only a hint that makes convergence fast.
--
-- Columns have one writer: the API writes what people want, the scheduler's leader writes what it
-- decided and saw, and each other service writes its own rows (builds, artifacts, proxies).

CREATE TABLE organizations (
    id          uuid PRIMARY KEY,
    slug        text NOT NULL UNIQUE,
    name        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE namespaces (
    id              uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
    name            text NOT NULL UNIQUE,
    created_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE users (
    id               uuid PRIMARY KEY,
    email            text NOT NULL,
    name             text NOT NULL,
    password_hash    text,
    is_admin         boolean NOT NULL DEFAULT false,
    disabled         boolean NOT NULL DEFAULT false,
    external_issuer  text,
    external_subject text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    UNIQUE (external_issuer, external_subject)
);
CREATE UNIQUE INDEX users_email_key ON users (lower(email));

CREATE TABLE memberships (
    user_id         uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    organization_id uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
    role            text NOT NULL CHECK (role IN ('owner', 'admin', 'developer', 'viewer')),
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, organization_id)
);

-- The key itself is shown once; only its SHA-256 is stored (keys carry 256 bits of entropy, so a
-- slow password hash would add nothing but latency on every request).
CREATE TABLE api_keys (
    id           uuid PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    name         text NOT NULL,
    prefix       text NOT NULL,
    hash         bytea NOT NULL UNIQUE,
    scopes       text[] NOT NULL DEFAULT '{}',
    expires_at   timestamptz,
    last_used_at timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now()
);

-- Login tokens that were logged out before their time; rows may go once expires_at has passed.
CREATE TABLE revoked_tokens (
    token_id   uuid PRIMARY KEY,
    expires_at timestamptz NOT NULL
);

CREATE TABLE idempotency_keys (
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    key          text NOT NULL,
    request_hash bytea NOT NULL,
    status       integer,
    body         jsonb,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, key)
);

CREATE TABLE applications (
    id                      uuid PRIMARY KEY,
    namespace_id            uuid NOT NULL REFERENCES namespaces,
    name                    text NOT NULL,
    subdomain               text NOT NULL UNIQUE,
    description             text NOT NULL DEFAULT '',
    labels                  jsonb NOT NULL DEFAULT '{}',
    default_deployment_spec jsonb NOT NULL DEFAULT '{}',
    created_at              timestamptz NOT NULL DEFAULT now(),
    updated_at              timestamptz NOT NULL DEFAULT now(),
    UNIQUE (namespace_id, name)
);

CREATE TABLE artifacts (
    id              uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations,
    name            text NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('binary', 'bundle', 'source')),
    content_type    text NOT NULL,
    size_bytes      bigint,
    sha256          text CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    state           text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'ready')),
    created_by      uuid REFERENCES users ON DELETE SET NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    CHECK (state = 'pending' OR (sha256 IS NOT NULL AND size_bytes IS NOT NULL))
);
CREATE INDEX artifacts_sha256_idx ON artifacts (sha256);

CREATE TABLE environments (
    id                    uuid PRIMARY KEY,
    application_id        uuid NOT NULL REFERENCES applications ON DELETE CASCADE,
    slug                  text NOT NULL,
    -- Written by the scheduler: which deployment serves, which one is being rolled out, and how
    -- much of the traffic (percent) the one being rolled out already gets (NULL: none).
    current_deployment_id uuid,
    target_deployment_id  uuid,
    target_weight         smallint CHECK (target_weight BETWEEN 0 AND 100),
    created_at            timestamptz NOT NULL DEFAULT now(),
    UNIQUE (application_id, slug)
);

-- value is sealed (XChaCha20-Poly1305); environment NULL means every environment.
CREATE TABLE env_vars (
    id             uuid PRIMARY KEY,
    application_id uuid NOT NULL REFERENCES applications ON DELETE CASCADE,
    environment    text,
    key            text NOT NULL,
    value          bytea NOT NULL,
    secret         boolean NOT NULL DEFAULT false,
    updated_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (application_id, environment, key)
);

CREATE TABLE builds (
    id                 uuid PRIMARY KEY,
    application_id     uuid NOT NULL REFERENCES applications ON DELETE CASCADE,
    source_artifact_id uuid NOT NULL REFERENCES artifacts,
    status             text NOT NULL DEFAULT 'queued'
                       CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    reason             text,
    message            text,
    diagnostics        jsonb NOT NULL DEFAULT '[]',
    artifact_id        uuid REFERENCES artifacts,
    cancel_requested   boolean NOT NULL DEFAULT false,
    lease_owner        uuid,
    lease_expires_at   timestamptz,
    attempts           integer NOT NULL DEFAULT 0,
    created_by         uuid REFERENCES users ON DELETE SET NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    started_at         timestamptz,
    finished_at        timestamptz
);
CREATE INDEX builds_open_idx ON builds (created_at) WHERE status IN ('queued', 'running');
CREATE INDEX builds_application_idx ON builds (application_id, created_at DESC);

CREATE TABLE build_logs (
    build_id uuid NOT NULL REFERENCES builds ON DELETE CASCADE,
    seq      bigint NOT NULL,
    time     timestamptz NOT NULL,
    stream   text NOT NULL,
    message  text NOT NULL,
    PRIMARY KEY (build_id, seq)
);

CREATE TABLE deployments (
    id                     uuid PRIMARY KEY,
    application_id         uuid NOT NULL REFERENCES applications ON DELETE CASCADE,
    environment_id         uuid NOT NULL REFERENCES environments ON DELETE CASCADE,
    version                integer NOT NULL,
    spec                   jsonb NOT NULL,
    image                  text,
    artifact_id            uuid REFERENCES artifacts,
    build_id               uuid REFERENCES builds ON DELETE SET NULL,
    preview_label          text NOT NULL UNIQUE CHECK (length(preview_label) <= 63),
    -- Wanted, may change after creation (written by the API).
    replicas               integer NOT NULL CHECK (replicas >= 0),
    idle_timeout_secs      integer NOT NULL CHECK (idle_timeout_secs >= 0),
    cold_start_enabled     boolean NOT NULL,
    -- Decided and seen (written by the scheduler).
    status                 text NOT NULL DEFAULT 'pending'
                           CHECK (status IN ('pending', 'running', 'succeeded', 'failed', 'cancelled')),
    reason                 text,
    message                text,
    evidence               jsonb,
    health                 text NOT NULL DEFAULT 'down'
                           CHECK (health IN ('healthy', 'degraded', 'asleep', 'down')),
    asleep                 boolean NOT NULL DEFAULT false,
    previous_deployment_id uuid,
    created_by             uuid REFERENCES users ON DELETE SET NULL,
    created_at             timestamptz NOT NULL DEFAULT now(),
    rollout_started_at     timestamptz,
    finished_at            timestamptz,
    UNIQUE (application_id, version)
);
CREATE INDEX deployments_environment_idx ON deployments (environment_id, version DESC);
CREATE INDEX deployments_build_idx ON deployments (build_id) WHERE build_id IS NOT NULL;

ALTER TABLE environments
    ADD FOREIGN KEY (current_deployment_id) REFERENCES deployments ON DELETE SET NULL,
    ADD FOREIGN KEY (target_deployment_id) REFERENCES deployments ON DELETE SET NULL;

-- What people asked of the scheduler, in order. The leader applies a row and marks it in the same
-- transaction as its effects, so a repeated hint has no second effect and a lost one only delays.
CREATE TABLE operations (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind          text NOT NULL CHECK (kind IN ('deploy', 'reconcile', 'promote', 'rollback', 'cancel',
                                                'restart', 'sleep', 'wake', 'stop_task', 'node', 'delete')),
    deployment_id uuid REFERENCES deployments ON DELETE CASCADE,
    task_id       uuid,
    node_id       uuid,
    actor         text NOT NULL,
    request_id    text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    applied_at    timestamptz
);
CREATE INDEX operations_open_idx ON operations (id) WHERE applied_at IS NULL;

CREATE TABLE nodes (
    id                uuid PRIMARY KEY,
    name              text NOT NULL UNIQUE,
    address           text NOT NULL,
    actions_port      integer NOT NULL,
    labels            jsonb NOT NULL DEFAULT '{}',
    cpu_millis        bigint NOT NULL,
    memory_bytes      bigint NOT NULL,
    task_slots        integer NOT NULL,
    port_min          integer NOT NULL,
    port_max          integer NOT NULL,
    container_enabled boolean NOT NULL DEFAULT false,
    enforcement       jsonb NOT NULL DEFAULT '{}',
    -- Wanted (written by the API).
    eligibility       text NOT NULL DEFAULT 'eligible'
                      CHECK (eligibility IN ('eligible', 'cordoned', 'draining')),
    -- Seen (written by the scheduler).
    status            text NOT NULL DEFAULT 'ready' CHECK (status IN ('ready', 'lost')),
    lease_expires_at  timestamptz NOT NULL,
    registered_at     timestamptz NOT NULL DEFAULT now()
);

-- A join token admits one node once; only its hash is stored.
CREATE TABLE join_tokens (
    id         uuid PRIMARY KEY,
    hash       bytea NOT NULL UNIQUE,
    created_by uuid REFERENCES users ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_by    uuid
);

CREATE TABLE tasks (
    id             uuid PRIMARY KEY,
    deployment_id  uuid NOT NULL REFERENCES deployments ON DELETE CASCADE,
    slot           integer NOT NULL,
    node_id        uuid REFERENCES nodes ON DELETE SET NULL,
    state          text NOT NULL
                   CHECK (state IN ('pending', 'starting', 'running', 'stopping', 'stopped', 'failed')),
    wanted         text NOT NULL CHECK (wanted IN ('run', 'stop')),
    reason         text,
    message        text,
    generation     bigint NOT NULL DEFAULT 1,
    address        text,
    port           integer,
    healthy        boolean NOT NULL DEFAULT false,
    -- True while proxies may send it requests.
    routed         boolean NOT NULL DEFAULT false,
    -- The first routing epoch without it; a stop waits until every live proxy acknowledged it.
    unrouted_epoch bigint,
    drain_until    timestamptz,
    restarts       integer NOT NULL DEFAULT 0,
    not_before     timestamptz,
    exit_code      integer,
    signal         integer,
    phases         jsonb,
    created_at     timestamptz NOT NULL DEFAULT now(),
    started_at     timestamptz,
    running_at     timestamptz,
    finished_at    timestamptz
);
CREATE INDEX tasks_deployment_idx ON tasks (deployment_id, created_at DESC);
CREATE INDEX tasks_node_idx ON tasks (node_id) WHERE state NOT IN ('stopped', 'failed');
CREATE INDEX tasks_live_idx ON tasks (deployment_id) WHERE state NOT IN ('stopped', 'failed');
-- A port is never given twice on a node.
CREATE UNIQUE INDEX tasks_port_key ON tasks (node_id, port)
    WHERE port IS NOT NULL AND state NOT IN ('stopped', 'failed');

-- A line is named by (task, sequence); the time, which the agent fixes when it reads the line, is in
-- the key only because a partitioned table needs its partition column there.
CREATE TABLE task_logs (
    task_id uuid NOT NULL,
    seq     bigint NOT NULL,
    time    timestamptz NOT NULL,
    stream  text NOT NULL,
    message text NOT NULL,
    PRIMARY KEY (task_id, seq, time)
) PARTITION BY RANGE (time);
CREATE TABLE task_logs_default PARTITION OF task_logs DEFAULT;

-- domain → an environment's current deployment, or one pinned deployment.
CREATE TABLE routes (
    id             uuid PRIMARY KEY,
    domain         text NOT NULL,
    application_id uuid NOT NULL REFERENCES applications ON DELETE CASCADE,
    environment_id uuid NOT NULL REFERENCES environments ON DELETE CASCADE,
    deployment_id  uuid REFERENCES deployments ON DELETE CASCADE,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX routes_domain_key ON routes (domain, (deployment_id IS NULL));

-- One row: raised in the same transaction as every change that matters to routing.
CREATE TABLE routing_epoch (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    epoch     bigint NOT NULL
);
INSERT INTO routing_epoch (epoch) VALUES (1);

-- Raises the epoch and tells proxies; the row lock orders concurrent raisers.
CREATE FUNCTION raise_routing_epoch() RETURNS bigint LANGUAGE sql AS $$
    WITH raised AS (UPDATE routing_epoch SET epoch = epoch + 1 RETURNING epoch),
         told AS (SELECT epoch, pg_notify('zectre_routing', epoch::text) FROM raised)
    SELECT epoch FROM told
$$;

CREATE TABLE proxies (
    id               uuid PRIMARY KEY,
    name             text NOT NULL,
    lease_expires_at timestamptz NOT NULL,
    -- The newest epoch it routes by, and the newest one of whose removed tasks none has a request left.
    applied_epoch    bigint NOT NULL DEFAULT 0,
    drained_epoch    bigint NOT NULL DEFAULT 0
);

-- Written by proxies in batches; a request under way counts as activity now.
CREATE TABLE deployment_activity (
    deployment_id  uuid NOT NULL REFERENCES deployments ON DELETE CASCADE,
    proxy_id       uuid NOT NULL,
    last_active_at timestamptz NOT NULL,
    in_flight      integer NOT NULL DEFAULT 0,
    PRIMARY KEY (deployment_id, proxy_id)
);
CREATE INDEX deployment_activity_recent_idx ON deployment_activity (last_active_at);

-- One row: the epoch of the last leader. A leader's writes name its epoch; an older one changes nothing.
CREATE TABLE scheduler_leader (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    epoch      bigint NOT NULL,
    address    text,
    elected_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO scheduler_leader (epoch) VALUES (0);

CREATE TABLE events (
    id             uuid PRIMARY KEY,
    time           timestamptz NOT NULL DEFAULT now(),
    actor          text NOT NULL,
    action         text NOT NULL,
    application_id uuid,
    deployment_id  uuid,
    task_id        uuid,
    node_id        uuid,
    message        text NOT NULL,
    reason         text,
    source_address text,
    request_id     text
);
CREATE INDEX events_time_idx ON events (time DESC, id DESC);
CREATE INDEX events_application_idx ON events (application_id, id DESC);
CREATE INDEX events_deployment_idx ON events (deployment_id, id DESC);

INSERT INTO organizations (id, slug, name) VALUES ('01900000-0000-7000-8000-000000000001', 'default', 'Default');
INSERT INTO namespaces (id, organization_id, name)
VALUES ('01900000-0000-7000-8000-000000000002', '01900000-0000-7000-8000-000000000001', 'default');
