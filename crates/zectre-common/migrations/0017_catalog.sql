-- The trust in a catalog ([auth] catalog_jwks_url): what it said, and what of it was taken up. Written by the API.

-- Its keys as they were read last: they are kept while it is away, over a restart too.
CREATE TABLE catalog_keys (
    issuer  text PRIMARY KEY,
    jwks    text NOT NULL,
    read_at timestamptz NOT NULL DEFAULT now()
);

-- The token from which a user's name and roles were taken: when it was issued (Unix seconds), and the SHA-256 of what it
-- says. An older token changes nothing.
ALTER TABLE users ADD COLUMN catalog_issued_at bigint;
ALTER TABLE users ADD COLUMN catalog_claims bytea;

-- Who made the organization; NULL: someone here. A catalog's own namesake of a local organization is another one.
ALTER TABLE organizations ADD COLUMN catalog_issuer text;

-- Who gave the role; NULL: someone here, and no catalog changes it.
ALTER TABLE memberships ADD COLUMN catalog_issuer text;
