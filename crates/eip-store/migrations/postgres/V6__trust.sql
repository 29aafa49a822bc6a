-- Telling a record that is behind its hosts, such as an old copy that was restored.
ALTER TABLE host
    -- The newest generation that the host has ever reported to this record.
    ADD COLUMN reported_generation bigint NOT NULL DEFAULT 0,
    -- What the host holds that this record never gave it. Until it is accepted, the host is given
    -- nothing.
    ADD COLUMN ahead_generation bigint,
    -- Whose set the host holds, where it is another record's.
    ADD COLUMN ahead_cluster uuid,
    -- The record that this one may take the place of on the host, as was accepted.
    ADD COLUMN accepted_cluster uuid;
-- Which was the newest is not known. At this one a host is told its whole set once more.
UPDATE host SET reported_generation = generation;
