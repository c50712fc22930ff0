-- The organizations at the user's issuer that they administered when they signed in last: only these may be mapped by them.
ALTER TABLE users ADD COLUMN administers bigint[] NOT NULL DEFAULT '{}';
