-- When the trial of a canary ended: all of it comes up then, and takes over.
ALTER TABLE deployments ADD COLUMN promoted_at timestamptz;
