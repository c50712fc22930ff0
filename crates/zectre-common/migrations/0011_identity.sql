-- Who belongs to what, how people sign in, and how much an organization may use. Written by the API.

-- A login token names the epoch in which it was made; a higher one ends all tokens before it (a changed password, a
-- disabled account).
ALTER TABLE users ADD COLUMN login_epoch bigint NOT NULL DEFAULT 0;

-- What happens to an organization itself (members, invitations, quotas) is seen by its members. No foreign key: events
-- outlive what they are about.
ALTER TABLE events ADD COLUMN organization_id uuid;
CREATE INDEX events_organization_idx ON events (organization_id) WHERE organization_id IS NOT NULL;

-- An offer of a role to whoever has the token and an account of this address. Accepted, it is gone.
CREATE TABLE invitations (
    id              uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
    email           text NOT NULL,
    role            text NOT NULL CHECK (role IN ('owner', 'admin', 'developer', 'viewer')),
    -- SHA-256 of a token of 256 bits.
    token_hash      bytea NOT NULL UNIQUE,
    created_by      uuid REFERENCES users ON DELETE SET NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz NOT NULL
);
CREATE UNIQUE INDEX invitations_email_key ON invitations (organization_id, lower(email));

-- A command line that waits for someone to say, in a browser or from another one, that it may act for them. It goes with
-- its first answer.
CREATE TABLE cli_logins (
    id            uuid PRIMARY KEY,
    -- SHA-256 of a code of 256 bits that only the command line knows.
    device_hash   bytea NOT NULL UNIQUE,
    -- What people type; worth nothing without the device code.
    user_code     text NOT NULL UNIQUE,
    device_name   text NOT NULL,
    address       text,
    state         text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'approved', 'denied')),
    user_id       uuid REFERENCES users ON DELETE CASCADE,
    -- How long it must wait between two questions, and when it asked last.
    interval_secs integer NOT NULL,
    polled_at     timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL,
    CHECK ((state = 'approved') <= (user_id IS NOT NULL))
);
CREATE INDEX cli_logins_expiry_idx ON cli_logins (expires_at);

-- A token that sets a new password once; a newer one replaces it.
CREATE TABLE password_resets (
    user_id    uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    -- SHA-256 of a token of 256 bits.
    token_hash bytea NOT NULL UNIQUE,
    created_by uuid REFERENCES users ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);

-- What an organization may use where that differs from the cluster's [quotas]; 0: no limit, NULL: as the cluster says.
CREATE TABLE organization_quotas (
    organization_id uuid PRIMARY KEY REFERENCES organizations ON DELETE CASCADE,
    applications    bigint CHECK (applications >= 0),
    tasks           bigint CHECK (tasks >= 0),
    cpu_millis      bigint CHECK (cpu_millis >= 0),
    memory_bytes    bigint CHECK (memory_bytes >= 0),
    artifact_bytes  bigint CHECK (artifact_bytes >= 0),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
