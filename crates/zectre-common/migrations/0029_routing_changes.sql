-- What changed of the rows that routes are made of, so that a proxy reads that again and nothing else. Triggers write it, so that
-- no writer can forget to. Each row names an application (its environments, deployments and routed tasks) or a domain (its routes
-- and claims). A proxy reads what the transactions wrote that its last read did not see, so order and clocks don't matter; what is
-- older than an hour is deleted by the API's housekeeping, and a proxy that has not read for long reads everything.
-- (After a restore into another server transactions are counted anew: then some is read again for nothing until it is deleted.)
CREATE TABLE routing_changes (
    txid           xid8 NOT NULL DEFAULT pg_current_xact_id(),
    application_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    domain         text NOT NULL DEFAULT '',
    changed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (txid, application_id, domain)
);
CREATE INDEX routing_changes_changed_idx ON routing_changes (changed_at);

CREATE FUNCTION application_routed_anew() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO routing_changes (application_id) VALUES (COALESCE(NEW.id, OLD.id)) ON CONFLICT DO NOTHING;
    IF TG_OP = 'UPDATE' AND OLD.deleted_at IS DISTINCT FROM NEW.deleted_at THEN
        INSERT INTO routing_changes (domain) SELECT domain FROM routes WHERE application_id = NEW.id
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER routed_anew_made AFTER INSERT OR DELETE ON applications FOR EACH ROW
    EXECUTE FUNCTION application_routed_anew();
CREATE TRIGGER routed_anew AFTER UPDATE OF subdomain, deleted_at ON applications FOR EACH ROW
    WHEN ((OLD.subdomain, OLD.deleted_at) IS DISTINCT FROM (NEW.subdomain, NEW.deleted_at))
    EXECUTE FUNCTION application_routed_anew();

CREATE FUNCTION environment_routed_anew() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO routing_changes (application_id) VALUES (COALESCE(NEW.application_id, OLD.application_id))
    ON CONFLICT DO NOTHING;
    IF TG_OP = 'UPDATE' AND OLD.deleted_at IS DISTINCT FROM NEW.deleted_at THEN
        INSERT INTO routing_changes (domain) SELECT domain FROM routes WHERE environment_id = NEW.id
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER routed_anew_made AFTER INSERT OR DELETE ON environments FOR EACH ROW
    EXECUTE FUNCTION environment_routed_anew();
CREATE TRIGGER routed_anew
    AFTER UPDATE OF slug, current_deployment_id, target_deployment_id, target_weight, public_port, deleted_at
    ON environments FOR EACH ROW
    WHEN ((OLD.slug, OLD.current_deployment_id, OLD.target_deployment_id, OLD.target_weight, OLD.public_port, OLD.deleted_at)
          IS DISTINCT FROM
          (NEW.slug, NEW.current_deployment_id, NEW.target_deployment_id, NEW.target_weight, NEW.public_port, NEW.deleted_at))
    EXECUTE FUNCTION environment_routed_anew();

CREATE FUNCTION deployment_routed_anew() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO routing_changes (application_id) VALUES (COALESCE(NEW.application_id, OLD.application_id))
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER routed_anew_made AFTER INSERT OR DELETE ON deployments FOR EACH ROW
    EXECUTE FUNCTION deployment_routed_anew();
CREATE TRIGGER routed_anew
    AFTER UPDATE OF environment_id, version, preview_label, status, reason, replicas, cold_start_enabled, asleep
    ON deployments FOR EACH ROW
    WHEN ((OLD.environment_id, OLD.version, OLD.preview_label, OLD.status, OLD.reason, OLD.replicas, OLD.cold_start_enabled,
           OLD.asleep)
          IS DISTINCT FROM
          (NEW.environment_id, NEW.version, NEW.preview_label, NEW.status, NEW.reason, NEW.replicas, NEW.cold_start_enabled,
           NEW.asleep))
    EXECUTE FUNCTION deployment_routed_anew();
-- By itself: a spec is large, and hardly ever written again.
CREATE TRIGGER routed_anew_by_spec AFTER UPDATE OF spec ON deployments FOR EACH ROW
    WHEN (OLD.spec IS DISTINCT FROM NEW.spec)
    EXECUTE FUNCTION deployment_routed_anew();

-- Only those that are routed: all others come and go without a proxy's knowing.
CREATE FUNCTION task_routed_anew() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO routing_changes (application_id)
    SELECT application_id FROM deployments WHERE id IN (OLD.deployment_id, NEW.deployment_id)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER routed_anew_made AFTER INSERT ON tasks FOR EACH ROW WHEN (NEW.routed)
    EXECUTE FUNCTION task_routed_anew();
CREATE TRIGGER routed_anew_deleted AFTER DELETE ON tasks FOR EACH ROW WHEN (OLD.routed)
    EXECUTE FUNCTION task_routed_anew();
CREATE TRIGGER routed_anew AFTER UPDATE OF deployment_id, routed, address, port, node_id ON tasks FOR EACH ROW
    WHEN ((OLD.routed OR NEW.routed)
          AND (OLD.deployment_id, OLD.routed, OLD.address, OLD.port, OLD.node_id)
              IS DISTINCT FROM (NEW.deployment_id, NEW.routed, NEW.address, NEW.port, NEW.node_id))
    EXECUTE FUNCTION task_routed_anew();

CREATE FUNCTION domain_routed_anew() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO routing_changes (domain)
    SELECT DISTINCT domain FROM (VALUES (OLD.domain), (NEW.domain)) AS changed (domain) WHERE domain IS NOT NULL
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER routed_anew AFTER INSERT OR UPDATE OR DELETE ON routes FOR EACH ROW
    EXECUTE FUNCTION domain_routed_anew();
CREATE TRIGGER routed_anew_made AFTER INSERT OR DELETE ON custom_domains FOR EACH ROW
    EXECUTE FUNCTION domain_routed_anew();
CREATE TRIGGER routed_anew AFTER UPDATE OF domain, token, verified_at, expires_at ON custom_domains FOR EACH ROW
    WHEN ((OLD.domain, OLD.token, OLD.verified_at, OLD.expires_at)
          IS DISTINCT FROM (NEW.domain, NEW.token, NEW.verified_at, NEW.expires_at))
    EXECUTE FUNCTION domain_routed_anew();

-- What a changed domain's claims are looked up by.
CREATE INDEX custom_domains_domain_idx ON custom_domains (domain);
