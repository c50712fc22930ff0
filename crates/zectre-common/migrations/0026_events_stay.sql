-- The activity feed is the audit log too: what is written in it stays as it is. Nothing changes an event; what is past its retention of
-- 90 days may be deleted, which is what the API's housekeeping does (`EVENTS_KEEP_DAYS` in zectre-api/src/maintenance.rs is never less).
CREATE FUNCTION keep_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.time < now() - interval '90 days' THEN
            RETURN OLD;
        END IF;
        RAISE EXCEPTION 'events are kept for 90 days: % of % may not be deleted yet', OLD.id, OLD.time;
    END IF;
    RAISE EXCEPTION 'events are only ever added, and deleted after 90 days: no % of them', TG_OP;
END $$;
CREATE TRIGGER events_kept BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION keep_events();
CREATE TRIGGER events_never_truncated BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION keep_events();
