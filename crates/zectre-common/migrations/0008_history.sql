-- A scheduler that begins to lead reads what lives, and housekeeping deletes what ended long ago: neither walks
-- through all that ever was.
CREATE INDEX deployments_live_idx ON deployments (id)
    WHERE status IN ('pending', 'running') OR (status = 'succeeded' AND NOT asleep);
CREATE INDEX operations_applied_idx ON operations (applied_at) WHERE applied_at IS NOT NULL;
CREATE INDEX tasks_ended_idx ON tasks (finished_at) WHERE state IN ('stopped', 'failed');
