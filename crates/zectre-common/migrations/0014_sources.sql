-- Where an application's source comes from. Written by the API.
CREATE TABLE sources (
    application_id uuid PRIMARY KEY REFERENCES applications ON DELETE CASCADE,
    -- What is fetched.
    repository     text NOT NULL,
    -- Host and path in one form: what a forge's call names.
    repository_key text NOT NULL,
    -- Branch → slug of an environment.
    branches       jsonb NOT NULL,
    root_dir       text NOT NULL DEFAULT '',
    auto_deploy    boolean NOT NULL DEFAULT true,
    previews       boolean NOT NULL DEFAULT true,
    -- For private repositories; sealed.
    credential     bytea,
    -- What signs the forge's calls; sealed.
    webhook_secret bytea NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX sources_repository_idx ON sources (repository_key);

-- Calls of forges that had their effect: a second one has none. The body counts too, because a signature doesn't cover the id.
CREATE TABLE inbound_webhooks (
    application_id uuid NOT NULL REFERENCES applications ON DELETE CASCADE,
    delivery_id    text NOT NULL,
    body_hash      bytea NOT NULL,
    received_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (application_id, delivery_id),
    UNIQUE (application_id, body_hash)
);
CREATE INDEX inbound_webhooks_received_idx ON inbound_webhooks (received_at);

-- A build comes from an uploaded archive, or from a repository. The worker writes the commit that it fetched.
ALTER TABLE builds ALTER COLUMN source_artifact_id DROP NOT NULL;
ALTER TABLE builds ADD COLUMN git_repository text;
ALTER TABLE builds ADD COLUMN git_ref text;
ALTER TABLE builds ADD COLUMN git_root_dir text;
ALTER TABLE builds ADD COLUMN git_commit text;
ALTER TABLE builds ADD CONSTRAINT builds_source_check CHECK ((source_artifact_id IS NULL) = (git_repository IS NOT NULL));
