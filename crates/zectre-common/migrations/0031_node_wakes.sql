-- Wakes that something was started on a node for, in the steps of the other series (0015). Steps of 10 s are written by the
-- scheduler, with the tasks that it places. A wake counts once on each node, however many replicas it brings there. The row of step 0
-- and zeros says since when they are counted.
CREATE TABLE node_wakes (
    step_secs integer NOT NULL,
    node_id   uuid NOT NULL,
    at        timestamptz NOT NULL,
    wakes     bigint NOT NULL,
    PRIMARY KEY (node_id, step_secs, at)
);
CREATE INDEX node_wakes_age_idx ON node_wakes (step_secs, at);
INSERT INTO node_wakes (step_secs, node_id, at, wakes) VALUES (0, '00000000-0000-0000-0000-000000000000', now(), 0);
