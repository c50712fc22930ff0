-- Certificates that all proxies serve, one a name. Written by proxies (orders) only; the key is sealed with the
-- master key for exactly this row.
CREATE TABLE certificates (
    name       text PRIMARY KEY,
    -- New with each certificate, so that a proxy reads only those that it does not know yet.
    id         uuid NOT NULL UNIQUE,
    -- PEM: the certificate, then what links it to a root.
    chain      text NOT NULL,
    sealed_key bytea NOT NULL,
    not_before timestamptz NOT NULL,
    not_after  timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The cluster's account at an ACME server.
CREATE TABLE acme_accounts (
    directory_url      text PRIMARY KEY,
    -- Its name there.
    account_url        text NOT NULL,
    sealed_credentials bytea NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT now()
);

-- What is known of ordering for a name. A proxy works on it while it holds the lease, and may take it only at the
-- revision it decided by: what another one has done meanwhile is never done again.
CREATE TABLE acme_orders (
    name        text PRIMARY KEY,
    revision    bigint NOT NULL,
    holder      uuid,
    lease_until timestamptz,
    -- The order under way and the key it is for: whoever takes over goes on with them.
    order_url   text,
    sealed_key  bytea,
    attempts    integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT now(),
    last_error  text
);

-- What an ACME server asks for while it looks at a name. Any proxy may be asked.
CREATE TABLE acme_challenges (
    name              text PRIMARY KEY,
    token             text NOT NULL,
    key_authorization text NOT NULL,
    expires_at        timestamptz NOT NULL
);
