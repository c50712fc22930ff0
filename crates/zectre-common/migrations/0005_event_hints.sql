-- Streams of events wait for this hint instead of asking again and again. A statement that inserted nothing tells nothing.
CREATE FUNCTION tell_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM inserted) THEN
        PERFORM pg_notify('zectre_events', '');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER events_told AFTER INSERT ON events
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION tell_events();
