-- The key of a command line ends no later than the key that approved it; NULL: that one, or the login, sets no end. Written
-- by the API.
ALTER TABLE cli_logins ADD COLUMN key_until timestamptz;
