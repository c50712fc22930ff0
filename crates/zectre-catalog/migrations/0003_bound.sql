-- Pages on which a person gave their word, or refused it: each counts once. Pages that still wait do so in browsers' cookies, so only
-- the spent ones are here.
CREATE TABLE spent_consents (
    nonce_hash bytea PRIMARY KEY,
    expires_at timestamptz NOT NULL
);

-- What the sign-in was begun for: its tokens are for nobody else. None where a version without it made the session, and then it can't
-- be refreshed.
ALTER TABLE sessions ADD COLUMN audience text;
UPDATE sessions s SET audience = c.audience FROM authorization_codes c WHERE c.code_hash = s.code_hash;
