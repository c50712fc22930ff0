-- When a person's logins were ended all at once: by a new password, or because the account was disabled. Tokens of a catalog carry
-- no epoch of this cluster, so they are told apart by when they were issued. Written by the API.
ALTER TABLE users ADD COLUMN logins_ended_at timestamptz;
UPDATE users SET logins_ended_at = now() WHERE disabled;
