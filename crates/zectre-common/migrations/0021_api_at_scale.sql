-- What the API reads often, without a walk through all there is: a page of applications in each of its orders (that of subdomains
-- has an index), and how often something woke.
CREATE INDEX applications_created_idx ON applications (created_at DESC, id) WHERE deleted_at IS NULL;
CREATE INDEX applications_updated_idx ON applications (updated_at DESC, id) WHERE deleted_at IS NULL;
CREATE INDEX applications_name_idx ON applications (name, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX events_awake_idx ON events (application_id, time) WHERE action = 'deployment.awake';
