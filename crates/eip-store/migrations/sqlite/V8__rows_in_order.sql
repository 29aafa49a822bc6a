-- Rows lie in the order of the allocations, and an index leads to them by address. An address is at
-- random, and where the rows lie by it each allocation in a full pool writes a page of its own, which the
-- log folds in alone; a page of the index holds ten times as many addresses as one of the table. What
-- the foreign keys said is held in other ways, as postgres/V2__batches.sql tells.
CREATE TABLE elastic_ip_anew (
    address          INTEGER NOT NULL,
    id               BLOB    NOT NULL,
    range_first      INTEGER NOT NULL,
    range_size       INTEGER NOT NULL,
    pool             TEXT    NOT NULL,
    project          TEXT    NOT NULL,
    name             TEXT,
    tags             TEXT    NOT NULL,
    allocated_at     INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    revision         INTEGER NOT NULL,
    released_at      INTEGER,
    quarantine_until INTEGER,
    CONSTRAINT elastic_ip_id_is_a_uuid CHECK (length(id) = 16),
    -- Bytes 12, 13 and 14 of the id, big-endian, modulo the size of the range: the hexadecimal
    -- digits 25 to 30, one at a time.
    CONSTRAINT elastic_ip_id_stands_for_address CHECK (
        address = range_first
            + ((instr('0123456789ABCDEF', substr(hex(id), 25, 1)) - 1) * 1048576
               + (instr('0123456789ABCDEF', substr(hex(id), 26, 1)) - 1) * 65536
               + (instr('0123456789ABCDEF', substr(hex(id), 27, 1)) - 1) * 4096
               + (instr('0123456789ABCDEF', substr(hex(id), 28, 1)) - 1) * 256
               + (instr('0123456789ABCDEF', substr(hex(id), 29, 1)) - 1) * 16
               + (instr('0123456789ABCDEF', substr(hex(id), 30, 1)) - 1)) % range_size),
    CONSTRAINT elastic_ip_tags_are_pairs CHECK (json_valid(tags) AND json_type(tags) = 'object'),
    CONSTRAINT elastic_ip_released_sleeps CHECK (
        (released_at IS NULL) = (quarantine_until IS NULL))
) STRICT;
INSERT INTO elastic_ip_anew
    SELECT address, id, range_first, range_size, pool, project, name, tags, allocated_at, updated_at,
           revision, released_at, quarantine_until
      FROM elastic_ip ORDER BY allocated_at, address;
DROP TABLE elastic_ip;
ALTER TABLE elastic_ip_anew RENAME TO elastic_ip;
CREATE UNIQUE INDEX elastic_ip_address ON elastic_ip (address);
CREATE UNIQUE INDEX elastic_ip_name_in_project ON elastic_ip (project, name)
    WHERE released_at IS NULL AND name IS NOT NULL;
CREATE INDEX elastic_ip_asleep ON elastic_ip (quarantine_until) WHERE released_at IS NOT NULL;
CREATE INDEX elastic_ip_by_time ON elastic_ip (allocated_at, address) WHERE released_at IS NULL;
CREATE INDEX elastic_ip_of_project ON elastic_ip (project, allocated_at, address)
    WHERE released_at IS NULL;
