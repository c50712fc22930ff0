-- What is deleted is hidden and its names are freed at once; the rows go when its last task has ended.
ALTER TABLE applications ADD COLUMN deleted_at timestamptz;
ALTER TABLE environments ADD COLUMN deleted_at timestamptz;

-- Order of commit for streams that resume without gap or repeat: ids and clocks are taken before a commit,
-- so a row can appear "before" one that was already sent. A reader takes rows in (txid, …) order below
-- pg_snapshot_xmin(), under which nothing can appear any more. (A restore into another server sets them to 0.)
ALTER TABLE events ADD COLUMN txid bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint);
CREATE INDEX events_txid_idx ON events (txid, id);
ALTER TABLE task_logs ADD COLUMN txid bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint);
CREATE INDEX task_logs_txid_idx ON task_logs (task_id, txid, seq);

-- A partition of task_logs for each day (UTC) from today to `days_ahead` days on. A day whose lines already
-- lie in the default partition stays there.
CREATE FUNCTION ensure_task_log_partitions(days_ahead integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    day date;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('zectre task log partitions', 0));
    FOR ahead IN 0..days_ahead LOOP
        day := (now() AT TIME ZONE 'UTC')::date + ahead;
        IF to_regclass('task_logs_' || to_char(day, 'YYYYMMDD')) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE TABLE %I PARTITION OF task_logs FOR VALUES FROM (%L) TO (%L)',
                    'task_logs_' || to_char(day, 'YYYYMMDD'), day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00');
            EXCEPTION WHEN check_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
END $$;

-- Drops the days that ended more than `retention_days` days ago; answers how many.
CREATE FUNCTION drop_task_log_partitions(retention_days integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    name text;
    dropped integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('zectre task log partitions', 0));
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'task_logs'::regclass AND c.relname ~ '^task_logs_[0-9]{8}$'
          AND to_date(right(c.relname, 8), 'YYYYMMDD') < (now() AT TIME ZONE 'UTC')::date - retention_days
    LOOP
        EXECUTE format('DROP TABLE %I', name);
        dropped := dropped + 1;
    END LOOP;
    DELETE FROM task_logs_default WHERE time < now() - make_interval(days => retention_days);
    RETURN dropped;
END $$;
