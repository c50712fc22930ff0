-- A name that an application claims as its own. It leads somewhere only once it was shown that whoever claims it
-- controls it: then, in the same transaction, it gets a row in `routes`. Any number of applications may claim a name,
-- so that a claim alone keeps nobody from their own; only one can hold it verified. Written by the API.
CREATE TABLE custom_domains (
    id             uuid PRIMARY KEY,
    -- Lower case, A-labels (punycode), without a trailing dot.
    domain         text NOT NULL,
    application_id uuid NOT NULL REFERENCES applications ON DELETE CASCADE,
    environment_id uuid NOT NULL REFERENCES environments ON DELETE CASCADE,
    -- What the TXT record or the page must hold. Anyone may see it: it speaks for this claim only.
    token          text NOT NULL,
    -- How it was shown: a TXT record, a page under the name itself, or not at all (the cluster asks for no proof).
    proof          text CHECK (proof IN ('dns', 'http', 'none')),
    verified_at    timestamptz,
    -- The last look that did not find the token, and when the next one is due.
    checks         integer NOT NULL DEFAULT 0,
    checked_at     timestamptz,
    problem        text,
    next_check_at  timestamptz NOT NULL DEFAULT now(),
    -- A claim that is not verified by then is forgotten.
    expires_at     timestamptz NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (application_id, domain),
    CHECK ((verified_at IS NULL) = (proof IS NULL))
);
-- One owner cluster-wide.
CREATE UNIQUE INDEX custom_domains_verified_key ON custom_domains (domain) WHERE verified_at IS NOT NULL;
CREATE INDEX custom_domains_pending_idx ON custom_domains (next_check_at) WHERE verified_at IS NULL;
