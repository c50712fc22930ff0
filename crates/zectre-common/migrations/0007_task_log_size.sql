-- Keeps the stored lines of all tasks below `bytes_max` bytes, tables and indexes together: the oldest days go first.
-- Where today alone is too large, the older half of its lines goes (a table without updates is in order of arrival).
-- Answers how many partitions were dropped or cut.
CREATE FUNCTION bound_task_logs(bytes_max bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    today text := 'task_logs_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD');
    name text;
    blocks bigint;
    done integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('zectre task log partitions', 0));
    WHILE done < 1000 AND bytes_max < (
        SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'task_logs'::regclass)
    LOOP
        SELECT c.relname INTO name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'task_logs'::regclass AND c.relname ~ '^task_logs_[0-9]{8}$' AND c.relname < today
        ORDER BY c.relname LIMIT 1;
        IF name IS NOT NULL THEN
            EXECUTE format('DROP TABLE %I', name);
        ELSE
            SELECT c.relname, pg_relation_size(c.oid) / current_setting('block_size')::integer INTO name, blocks
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'task_logs'::regclass ORDER BY pg_relation_size(c.oid) DESC LIMIT 1;
            EXIT WHEN blocks < 2;
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', name);
            EXECUTE format('CREATE TEMP TABLE task_logs_kept ON COMMIT DROP AS SELECT * FROM %I WHERE ctid >= %L::tid',
                name, format('(%s,0)', blocks / 2));
            EXECUTE format('TRUNCATE %I', name);
            EXECUTE format('INSERT INTO %I SELECT * FROM task_logs_kept', name);
            DROP TABLE task_logs_kept;
        END IF;
        done := done + 1;
    END LOOP;
    RETURN done;
END $$;
