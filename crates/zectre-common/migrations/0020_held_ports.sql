-- When a port for plain TCP was given up. Clients of whoever had it may go on calling for a while: it is held before the next
-- environment is given it, and the one that is free for the longest time comes first. A row a port, at most as many as there are ports.
CREATE TABLE freed_ports (
    port     integer PRIMARY KEY CHECK (port BETWEEN 1 AND 65535),
    freed_at timestamptz NOT NULL
);

-- Here and not where environments are deleted: no way to give a port up is forgotten, the previous version's included.
CREATE FUNCTION hold_freed_port() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO freed_ports (port, freed_at) VALUES (OLD.public_port, now())
    ON CONFLICT (port) DO UPDATE SET freed_at = excluded.freed_at;
    RETURN NULL;
END $$;
CREATE TRIGGER freed_port_held AFTER UPDATE OF public_port ON environments FOR EACH ROW
    WHEN (OLD.public_port IS NOT NULL AND OLD.public_port IS DISTINCT FROM NEW.public_port)
    EXECUTE FUNCTION hold_freed_port();
CREATE TRIGGER deleted_port_held AFTER DELETE ON environments FOR EACH ROW
    WHEN (OLD.public_port IS NOT NULL)
    EXECUTE FUNCTION hold_freed_port();
