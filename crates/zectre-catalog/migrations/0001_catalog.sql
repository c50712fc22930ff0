-- The catalog's own database. What is a secret is here as a hash only, but for the keys that sign tokens: they are sealed.

-- Keys sign one after the other. One is published before it signs, and stays until the last token that it signed has ended.
CREATE TABLE signing_keys (
    kid            text PRIMARY KEY,
    algorithm      text NOT NULL CHECK (algorithm IN ('RS256', 'EdDSA')),
    public_jwk     jsonb NOT NULL,
    -- PKCS#8 in base64, sealed under the master key for this kid.
    private_sealed bytea NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    signs_from     timestamptz NOT NULL UNIQUE
);

CREATE TABLE users (
    id           uuid PRIMARY KEY,
    -- Who says who this is (github.url), and its number there. Names there can be given to someone else; numbers are not.
    issuer       text NOT NULL,
    subject      bigint NOT NULL,
    login        text NOT NULL,
    -- The primary address, verified there.
    email        text NOT NULL,
    name         text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    signed_in_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (issuer, subject)
);

CREATE TABLE organizations (
    id         uuid PRIMARY KEY,
    slug       text NOT NULL UNIQUE,
    name       text NOT NULL,
    created_by uuid REFERENCES users ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX organizations_created_by_idx ON organizations (created_by);

CREATE TABLE memberships (
    organization_id uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
    user_id         uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    role            text NOT NULL CHECK (role IN ('viewer', 'developer', 'admin', 'owner')),
    -- Whether it follows from an organization of GitHub: such a one comes and goes at each sign-in.
    from_github     boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, user_id)
);
CREATE INDEX memberships_user_idx ON memberships (user_id);

-- Members of an organization of GitHub get this role when they sign in. Owners are named one by one.
CREATE TABLE github_mappings (
    organization_id uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
    issuer          text NOT NULL,
    github_org_id   bigint NOT NULL,
    role            text NOT NULL CHECK (role IN ('viewer', 'developer', 'admin')),
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, issuer, github_org_id)
);
CREATE INDEX github_mappings_org_idx ON github_mappings (issuer, github_org_id);

CREATE TABLE invitations (
    id              uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
    -- Only an account with this address can accept it.
    email           text NOT NULL,
    role            text NOT NULL CHECK (role IN ('viewer', 'developer', 'admin', 'owner')),
    token_hash      bytea NOT NULL UNIQUE,
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz NOT NULL
);
CREATE INDEX invitations_organization_idx ON invitations (organization_id);

-- Every audience that a cluster ever had. None is given out twice, not even when its cluster is removed: a cluster that still
-- trusts it would let in whoever takes it next.
CREATE TABLE audiences (
    audience   text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE clusters (
    id              uuid PRIMARY KEY,
    -- Whose it is: tokens for it are given to members of this organization, and speak of no other one.
    organization_id uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
    name            text NOT NULL,
    api_base_url    text NOT NULL,
    audience        text NOT NULL UNIQUE REFERENCES audiences,
    created_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, name)
);

-- What a client exchanges for tokens, once. Spent ones stay a while, so that a second try is noticed.
CREATE TABLE authorization_codes (
    code_hash      bytea PRIMARY KEY,
    user_id        uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    client_id      text NOT NULL,
    redirect_uri   text NOT NULL,
    code_challenge text NOT NULL,
    audience       text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz NOT NULL,
    used_at        timestamptz
);

-- One sign-in of one client. Its refresh tokens are family and secret: the family says which session, and a secret that isn't
-- the current one was used before. Families are in no access token, so only who has seen a refresh token can end a session.
CREATE TABLE sessions (
    id              uuid PRIMARY KEY,
    user_id         uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    client_id       text NOT NULL,
    code_hash       bytea NOT NULL UNIQUE,
    family_hash     bytea NOT NULL UNIQUE,
    refresh_hash    bytea NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    refreshed_at    timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz NOT NULL,
    revoked_at      timestamptz,
    revoked_because text
);
CREATE INDEX sessions_user_idx ON sessions (user_id);
