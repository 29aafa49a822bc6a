-- Telling a record that is behind its hosts, such as an old copy that was restored.
--
-- The newest generation that the host has ever reported to this record.
ALTER TABLE host ADD COLUMN reported_generation INTEGER NOT NULL DEFAULT 0;
-- What the host holds that this record never gave it. Until it is accepted, the host is given
-- nothing.
ALTER TABLE host ADD COLUMN ahead_generation INTEGER;
-- Whose set the host holds, where it is another record's.
ALTER TABLE host ADD COLUMN ahead_cluster BLOB;
-- The record that this one may take the place of on the host, as was accepted.
ALTER TABLE host ADD COLUMN accepted_cluster BLOB;
-- Which was the newest is not known. At this one a host is told its whole set once more.
UPDATE host SET reported_generation = generation;

-- What elastic IPs have carried. A row is of the elastic IP that it names: of an earlier holder of the
-- address it says nothing any more. The last of each counter is where its host had it.
CREATE TABLE traffic (
    address          INTEGER NOT NULL,
    elastic_ip_id    BLOB    NOT NULL,
    host             TEXT    NOT NULL,
    packets_in       INTEGER NOT NULL,
    bytes_in         INTEGER NOT NULL,
    packets_out      INTEGER NOT NULL,
    bytes_out        INTEGER NOT NULL,
    last_packets_in  INTEGER NOT NULL,
    last_bytes_in    INTEGER NOT NULL,
    last_packets_out INTEGER NOT NULL,
    last_bytes_out   INTEGER NOT NULL,
    since            INTEGER NOT NULL,
    at               INTEGER NOT NULL,
    CONSTRAINT traffic_pkey PRIMARY KEY (address)
) STRICT;
