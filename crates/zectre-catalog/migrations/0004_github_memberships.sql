-- Which mappings a membership follows from, as GitHub had it at the last sign-in: where one of them changes or goes, the others
-- still hold.
CREATE TABLE github_memberships (
    organization_id uuid NOT NULL,
    user_id         uuid NOT NULL,
    issuer          text NOT NULL,
    github_org_id   bigint NOT NULL,
    PRIMARY KEY (organization_id, user_id, issuer, github_org_id),
    FOREIGN KEY (organization_id, user_id) REFERENCES memberships ON DELETE CASCADE,
    FOREIGN KEY (organization_id, issuer, github_org_id) REFERENCES github_mappings ON DELETE CASCADE
);
CREATE INDEX github_memberships_mapping_idx ON github_memberships (organization_id, issuer, github_org_id);
CREATE INDEX github_memberships_user_idx ON github_memberships (user_id);
