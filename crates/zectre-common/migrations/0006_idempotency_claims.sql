-- Who works on the request of a key, and until when that is believed. The answer is kept in the transaction that has
-- the effect, and only by whoever holds the claim: a claim that ran out can be taken over without doing anything twice.
-- Rows of earlier versions have no claim, and are never taken over.
ALTER TABLE idempotency_keys ADD COLUMN claim uuid;
ALTER TABLE idempotency_keys ADD COLUMN claim_expires_at timestamptz;
-- Where the resource is that was made.
ALTER TABLE idempotency_keys ADD COLUMN location text;
