-- How many applications a namespace has: every list of applications says how many there are in all, and counting ten thousand of them
-- took longer than everything else that it does. Applications come and go seldom, so those that make some in one namespace at once can wait for
-- each other. A table of its own, since what listens to namespaces has nothing to learn of it.
CREATE TABLE application_counts (
    namespace_id uuid PRIMARY KEY REFERENCES namespaces ON DELETE CASCADE,
    applications bigint NOT NULL
);
INSERT INTO application_counts (namespace_id, applications)
SELECT namespace_id, count(*) FROM applications WHERE deleted_at IS NULL GROUP BY namespace_id;

-- By statement, and in one order, so that statements about many of them don't wait for each other in a circle.
CREATE FUNCTION count_applications() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO application_counts AS c (namespace_id, applications)
        SELECT namespace_id, count(*) FROM new_rows WHERE deleted_at IS NULL GROUP BY namespace_id ORDER BY namespace_id
        ON CONFLICT (namespace_id) DO UPDATE SET applications = c.applications + excluded.applications;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO application_counts AS c (namespace_id, applications)
        SELECT namespace_id, -count(*) FROM old_rows WHERE deleted_at IS NULL GROUP BY namespace_id ORDER BY namespace_id
        ON CONFLICT (namespace_id) DO UPDATE SET applications = c.applications + excluded.applications;
    ELSE
        INSERT INTO application_counts AS c (namespace_id, applications)
        SELECT namespace_id, sum(applications) FROM (
            SELECT namespace_id, 1 AS applications FROM new_rows WHERE deleted_at IS NULL
            UNION ALL SELECT namespace_id, -1 FROM old_rows WHERE deleted_at IS NULL
        ) AS changes GROUP BY namespace_id HAVING sum(applications) <> 0 ORDER BY namespace_id
        ON CONFLICT (namespace_id) DO UPDATE SET applications = c.applications + excluded.applications;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER applications_counted_made AFTER INSERT ON applications
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION count_applications();
CREATE TRIGGER applications_counted_gone AFTER DELETE ON applications
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION count_applications();
CREATE TRIGGER applications_counted AFTER UPDATE ON applications
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION count_applications();
