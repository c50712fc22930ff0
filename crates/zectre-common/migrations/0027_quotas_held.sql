-- What quotas are held against.

-- Who made the organization, for the bound on how many one person makes; NULL: the cluster, a catalog, or someone who is
-- gone. Written by the API.
ALTER TABLE organizations ADD COLUMN created_by uuid REFERENCES users ON DELETE SET NULL;
UPDATE organizations o SET created_by = (
    SELECT m.user_id FROM memberships m WHERE m.organization_id = o.id AND m.role = 'owner'
    ORDER BY m.created_at, m.user_id LIMIT 1)
WHERE o.catalog_issuer IS NULL AND o.slug <> 'default';
CREATE INDEX organizations_created_by_idx ON organizations (created_by) WHERE created_by IS NOT NULL;

-- The upload that has the pending artifact, and until when unless it says that it goes on: size_bytes is what it
-- reserved. Written by the API and, for what it builds, by the build worker.
ALTER TABLE artifacts ADD COLUMN upload_id uuid;
ALTER TABLE artifacts ADD COLUMN upload_until timestamptz;

-- The bytes that an organization stores, and those of uploads under way.
CREATE FUNCTION artifact_bytes_used(organization uuid) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT COALESCE(sum(size_bytes), 0)::bigint FROM artifacts
    WHERE organization_id = organization AND (state = 'ready' OR upload_until > now())
$$;

-- How many it may store: its own limit, or that of the cluster; 0 is no limit.
CREATE FUNCTION artifact_bytes_allowed(organization uuid, of_cluster bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT COALESCE((SELECT artifact_bytes FROM organization_quotas WHERE organization_id = organization), of_cluster)
$$;
