-- What 0029 has for each task, for each statement: the scheduler writes thousands of tasks in one, and to look each of them up cost as much as to write it.
-- A task never changes its deployment.
DROP TRIGGER routed_anew_made ON tasks;
DROP TRIGGER routed_anew_deleted ON tasks;
DROP TRIGGER routed_anew ON tasks;
DROP FUNCTION task_routed_anew();

CREATE FUNCTION tasks_routed_anew() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO routing_changes (application_id)
        SELECT DISTINCT d.application_id
          FROM gone g JOIN come c USING (id) JOIN deployments d ON d.id = c.deployment_id
         WHERE (g.routed OR c.routed)
           AND (g.routed, g.address, g.port, g.node_id) IS DISTINCT FROM (c.routed, c.address, c.port, c.node_id)
        ON CONFLICT DO NOTHING;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO routing_changes (application_id)
        SELECT DISTINCT d.application_id FROM come c JOIN deployments d ON d.id = c.deployment_id WHERE c.routed
        ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO routing_changes (application_id)
        SELECT DISTINCT d.application_id FROM gone g JOIN deployments d ON d.id = g.deployment_id WHERE g.routed
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER routed_anew_made AFTER INSERT ON tasks
    REFERENCING NEW TABLE AS come FOR EACH STATEMENT EXECUTE FUNCTION tasks_routed_anew();
CREATE TRIGGER routed_anew AFTER UPDATE ON tasks
    REFERENCING OLD TABLE AS gone NEW TABLE AS come FOR EACH STATEMENT EXECUTE FUNCTION tasks_routed_anew();
CREATE TRIGGER routed_anew_deleted AFTER DELETE ON tasks
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION tasks_routed_anew();
