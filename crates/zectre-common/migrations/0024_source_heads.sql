-- The newest that GitHub's calls said of a branch or a pull request: its calls come in any order, and an older one must not undo a
-- newer one. Written by the API.
CREATE TABLE source_heads (
    application_id uuid NOT NULL REFERENCES sources ON DELETE CASCADE,
    -- `refs/heads/BRANCH`, or `pr-N`.
    subject        text NOT NULL,
    -- By GitHub's clock, in whole seconds: `repository.pushed_at`, `pull_request.updated_at`.
    at             timestamptz NOT NULL,
    -- Empty where the call named none.
    before_commit  text NOT NULL,
    after_commit   text NOT NULL,
    closed         boolean NOT NULL,
    seen_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (application_id, subject)
);
CREATE INDEX source_heads_seen_idx ON source_heads (seen_at) WHERE subject LIKE 'pr-%';
