-- Time series, in steps of 10 s, 60 s and 3600 s. Coarser ones are made of finer ones by the API once nothing can be late any
-- more, and all are deleted when they are too old. at is where a step begins.

-- Requests of environments, written by proxies: what one of them counted within a step, so that telling it twice is telling it
-- once. The environment of zeros is that of what had no series of its own; its rows also say that the proxy told of this step at all.
-- In coarser steps the proxy is zeros.
CREATE TABLE request_metrics (
    step_secs      integer NOT NULL,
    environment_id uuid NOT NULL,
    at             timestamptz NOT NULL,
    proxy_id       uuid NOT NULL,
    requests       bigint NOT NULL,
    errors         bigint NOT NULL,
    -- Answers by duration: the buckets of zectre_common::histogram, zeros at the end left out.
    durations      bigint[] NOT NULL,
    PRIMARY KEY (environment_id, step_secs, at, proxy_id)
);
CREATE INDEX request_metrics_age_idx ON request_metrics (step_secs, at);

-- What the tasks of an environment or of a node use, sampled by the API from what agents told. The subject of zeros says that a
-- sample was taken at all. cpu_millis and memory_bytes are NULL where no agent told.
CREATE TABLE usage_metrics (
    step_secs    integer NOT NULL,
    subject_id   uuid NOT NULL,
    at           timestamptz NOT NULL,
    cpu_millis   double precision,
    memory_bytes double precision,
    tasks        double precision NOT NULL,
    PRIMARY KEY (subject_id, step_secs, at)
);
CREATE INDEX usage_metrics_age_idx ON usage_metrics (step_secs, at);

-- Up to where each coarser step has been made.
CREATE TABLE metric_rollups (
    step_secs  integer PRIMARY KEY,
    done_until timestamptz NOT NULL
);
INSERT INTO metric_rollups (step_secs, done_until) VALUES (60, 'epoch'), (3600, 'epoch');
