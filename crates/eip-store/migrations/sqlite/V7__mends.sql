-- Events that are about a host and about no elastic IP: what was put right there. SQLite takes no NOT
-- NULL away, so the table is made anew, with its numbers and the highest that there ever was.
CREATE TABLE event_anew (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    at            INTEGER NOT NULL,
    kind          TEXT    NOT NULL,
    project       TEXT,
    elastic_ip_id BLOB,
    address       INTEGER,
    instance_id   BLOB,
    instance_name TEXT,
    host          TEXT,
    actor         TEXT    NOT NULL,
    -- What the other columns do not say, for people.
    detail        TEXT,
    CONSTRAINT event_is_of_an_elastic_ip_or_of_a_host CHECK (
        (kind <> 'data_plane_mended'
         AND project IS NOT NULL AND elastic_ip_id IS NOT NULL AND address IS NOT NULL)
        OR (kind = 'data_plane_mended'
            AND project IS NULL AND elastic_ip_id IS NULL AND address IS NULL
            AND host IS NOT NULL AND detail IS NOT NULL))
) STRICT;
INSERT INTO event_anew (seq, at, kind, project, elastic_ip_id, address, instance_id, instance_name,
                        host, actor)
    SELECT seq, at, kind, project, elastic_ip_id, address, instance_id, instance_name, host, actor
      FROM event ORDER BY seq;
DELETE FROM sqlite_sequence WHERE name = 'event_anew';
INSERT INTO sqlite_sequence (name, seq)
    SELECT 'event_anew', seq FROM sqlite_sequence WHERE name = 'event';
DROP TABLE event;
ALTER TABLE event_anew RENAME TO event;
CREATE INDEX event_of_address ON event (address, seq) WHERE kind <> 'allocated';
CREATE INDEX event_by_time ON event (at);
