-- Where proxies take connections for an environment whose deployments speak plain TCP. Written by the API with the first such
-- deployment, and kept until the environment is deleted.
ALTER TABLE environments ADD COLUMN public_port integer CHECK (public_port BETWEEN 1 AND 65535);
CREATE UNIQUE INDEX environments_public_port_key ON environments (public_port) WHERE public_port IS NOT NULL;

-- Port → why this proxy can't listen there. Written by the proxy.
ALTER TABLE proxies ADD COLUMN ports_failed jsonb NOT NULL DEFAULT '{}';
