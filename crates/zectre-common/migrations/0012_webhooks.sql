-- Calls to programs outside when something happens. Written by the API.
CREATE TABLE webhooks (
    id              uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
    -- NULL: all applications of the organization.
    application_id  uuid REFERENCES applications ON DELETE CASCADE,
    url             text NOT NULL,
    -- Actions: `deployment.failed`, `deployment.*` or `*`.
    events          text[] NOT NULL,
    -- What signs deliveries, sealed.
    secret          bytea NOT NULL,
    -- It gets what is written by this transaction and later ones.
    txid            bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),
    -- Attempts that failed since the last one that did not, and the first of them.
    failures        integer NOT NULL DEFAULT 0,
    failing_since   timestamptz,
    disabled_at     timestamptz,
    disabled_reason text,
    created_by      uuid REFERENCES users ON DELETE SET NULL,
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhooks_organization_idx ON webhooks (organization_id);

-- One event for one webhook. Whoever takes a row counts the attempt and moves next_attempt_at ahead: that is its lease.
CREATE TABLE webhook_deliveries (
    id              uuid PRIMARY KEY,
    webhook_id      uuid NOT NULL REFERENCES webhooks ON DELETE CASCADE,
    event_id        uuid NOT NULL,
    action          text NOT NULL,
    state           text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    attempted_at    timestamptz,
    -- What the last attempt came to.
    answer_status   smallint,
    answer_body     text,
    problem         text,
    duration_ms     integer,
    created_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz,
    UNIQUE (webhook_id, event_id)
);
CREATE INDEX webhook_deliveries_pending_idx ON webhook_deliveries (webhook_id, next_attempt_at) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_list_idx ON webhook_deliveries (webhook_id, created_at DESC);
CREATE INDEX webhook_deliveries_finished_idx ON webhook_deliveries (finished_at) WHERE finished_at IS NOT NULL;

-- How far events have been made into deliveries, in order of commit (see 0002).
CREATE TABLE webhook_cursor (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    txid      bigint NOT NULL,
    event_id  uuid NOT NULL
);
INSERT INTO webhook_cursor (txid, event_id)
VALUES (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
