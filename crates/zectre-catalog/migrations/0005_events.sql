-- What was done: who, what, to whom or what, from where and when. No foreign keys: an event outlives what it tells of.
CREATE TABLE events (
    id              uuid PRIMARY KEY,
    time            timestamptz NOT NULL DEFAULT now(),
    -- The account that did it, and its name at GitHub then; no account where the catalog itself did.
    actor_id        uuid,
    actor           text NOT NULL,
    action          text NOT NULL,
    organization_id uuid,
    -- The account, the invitation or the cluster that it was done to, and the name by which people know it.
    subject_id      uuid,
    subject         text NOT NULL,
    message         text NOT NULL,
    source_address  text,
    request_id      text
);
CREATE INDEX events_time_idx ON events (time);
CREATE INDEX events_organization_idx ON events (organization_id, time DESC, id DESC);
CREATE INDEX events_actor_idx ON events (actor_id, time DESC, id DESC);
CREATE INDEX events_subject_idx ON events (subject_id, time DESC, id DESC);

-- What is written stays as it is, and what is past its retention of 90 days may be deleted, which is what the purge does.
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
