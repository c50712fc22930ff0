-- Whose an application was, for as long as events may tell of it. The activity feed is the audit log too: who may read what happened to an
-- application reads that it was deleted, and by whom, when its rows are gone. The API's housekeeping forgets it with the last event.
CREATE TABLE former_applications (
    id              uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
    gone_at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX former_applications_organization_idx ON former_applications (organization_id);
CREATE INDEX former_applications_gone_idx ON former_applications (gone_at);

CREATE FUNCTION remember_application() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO former_applications (id, organization_id)
    SELECT OLD.id, organization_id FROM namespaces WHERE id = OLD.namespace_id
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER applications_remembered AFTER DELETE ON applications FOR EACH ROW EXECUTE FUNCTION remember_application();

-- The organization of every application that there is or was.
CREATE VIEW application_owners AS
SELECT a.id, n.organization_id FROM applications a JOIN namespaces n ON n.id = a.namespace_id
UNION ALL
SELECT id, organization_id FROM former_applications;
