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

-- What elastic IPs have carried. A row is of the elastic IP that it names: of an earlier holder of the
-- address it says nothing any more. The last of each counter is where its host had it.
CREATE TABLE traffic (
    address          bigint NOT NULL,
    elastic_ip_id    uuid NOT NULL,
    host             text COLLATE "C" NOT NULL,
    packets_in       bigint NOT NULL,
    bytes_in         bigint NOT NULL,
    packets_out      bigint NOT NULL,
    bytes_out        bigint NOT NULL,
    last_packets_in  bigint NOT NULL,
    last_bytes_in    bigint NOT NULL,
    last_packets_out bigint NOT NULL,
    last_bytes_out   bigint NOT NULL,
    since            timestamptz NOT NULL,
    at               timestamptz NOT NULL,
    CONSTRAINT traffic_pkey PRIMARY KEY (address)
);
