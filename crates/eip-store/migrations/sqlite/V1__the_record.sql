-- The record, in SQLite 3.37 or newer. postgres/V1__the_record.sql tells the same story.
--
-- An address is stored as the number that its four bytes make, a time as microseconds since 1970,
-- an id as its 16 bytes. The rules use no function of ours: whoever opens this file with sqlite3
-- is bound by them, too.

CREATE TABLE cluster (
    only_row INTEGER NOT NULL DEFAULT 1,
    id       BLOB    NOT NULL,
    CONSTRAINT cluster_pkey PRIMARY KEY (only_row),
    CONSTRAINT cluster_has_one_row CHECK (only_row = 1)
) STRICT, WITHOUT ROWID;

CREATE TABLE project (
    name       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    CONSTRAINT project_pkey PRIMARY KEY (name)
) STRICT, WITHOUT ROWID;

CREATE TABLE pool (
    name               TEXT    NOT NULL,
    quarantine_seconds INTEGER NOT NULL,
    created_at         INTEGER NOT NULL,
    CONSTRAINT pool_pkey PRIMARY KEY (name),
    CONSTRAINT pool_quarantine_is_a_time CHECK (quarantine_seconds BETWEEN 0 AND 4294967295)
) STRICT, WITHOUT ROWID;

CREATE TABLE pool_range (
    first    INTEGER NOT NULL,
    size     INTEGER NOT NULL,
    pool     TEXT    NOT NULL,
    position INTEGER NOT NULL,
    CONSTRAINT pool_range_pkey PRIMARY KEY (first),
    -- What an elastic IP refers to: its address is looked up by way of its range.
    CONSTRAINT pool_range_is_one_thing UNIQUE (first, size, pool),
    CONSTRAINT pool_range_pool_fkey FOREIGN KEY (pool) REFERENCES pool (name),
    CONSTRAINT pool_range_is_ipv4 CHECK (first >= 0 AND first + size <= 4294967296),
    CONSTRAINT pool_range_fits_the_id CHECK (size BETWEEN 1 AND 16777216)
) STRICT;

CREATE TABLE api_key (
    id         TEXT    NOT NULL,
    digest     BLOB    NOT NULL,
    role       TEXT    NOT NULL,
    project    TEXT,
    host       TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    CONSTRAINT api_key_pkey PRIMARY KEY (id),
    CONSTRAINT api_key_digest_is_its_own UNIQUE (digest),
    CONSTRAINT api_key_digest_is_sha256 CHECK (length(digest) = 32),
    CONSTRAINT api_key_role_has_its_part CHECK (
        (role IN ('admin', 'member', 'reader') AND project IS NOT NULL AND host IS NULL)
        OR (role = 'agent' AND project IS NULL AND host IS NOT NULL))
) STRICT;

-- An address that is held, or asleep after its release. The primary key is what makes two holders
-- of one address impossible. There is no index on id: an id says which address it may stand for.
CREATE TABLE elastic_ip (
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
    CONSTRAINT elastic_ip_pkey PRIMARY KEY (address),
    CONSTRAINT elastic_ip_range_fkey FOREIGN KEY (range_first, range_size, pool)
        REFERENCES pool_range (first, size, pool),
    CONSTRAINT elastic_ip_project_fkey FOREIGN KEY (project) REFERENCES project (name),
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

CREATE UNIQUE INDEX elastic_ip_name_in_project ON elastic_ip (project, name)
    WHERE released_at IS NULL AND name IS NOT NULL;
CREATE INDEX elastic_ip_of_project ON elastic_ip (project, address) WHERE released_at IS NULL;
CREATE INDEX elastic_ip_asleep ON elastic_ip (quarantine_until) WHERE released_at IS NOT NULL;

-- Who held which address and when, for ever.
CREATE TABLE past_allocation (
    address       INTEGER NOT NULL,
    allocated_at  INTEGER NOT NULL,
    elastic_ip_id BLOB    NOT NULL,
    project       TEXT    NOT NULL,
    pool          TEXT    NOT NULL,
    name          TEXT,
    released_at   INTEGER NOT NULL,
    CONSTRAINT past_allocation_pkey PRIMARY KEY (address, allocated_at, elastic_ip_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE host (
    name                TEXT    NOT NULL,
    generation          INTEGER NOT NULL,
    observed_generation INTEGER NOT NULL,
    health              TEXT    NOT NULL,
    health_reason       TEXT,
    backends            TEXT    NOT NULL,
    first_seen_at       INTEGER NOT NULL,
    last_seen_at        INTEGER NOT NULL,
    CONSTRAINT host_pkey PRIMARY KEY (name),
    CONSTRAINT host_observed_what_was_desired CHECK (
        observed_generation BETWEEN 0 AND generation),
    CONSTRAINT host_ill_health_has_a_reason CHECK (
        (health = 'ready' AND health_reason IS NULL)
        OR (health IN ('absent', 'failing') AND health_reason IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE instance (
    id         BLOB    NOT NULL,
    host       TEXT    NOT NULL,
    backend    TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    project    TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    private_ip INTEGER,
    vpc_id     TEXT,
    unusable   TEXT,
    updated_at INTEGER NOT NULL,
    CONSTRAINT instance_pkey PRIMARY KEY (id),
    CONSTRAINT instance_host_fkey FOREIGN KEY (host) REFERENCES host (name),
    CONSTRAINT instance_id_is_a_uuid CHECK (length(id) = 16),
    CONSTRAINT instance_state_is_known CHECK (state IN ('running', 'paused', 'stopped'))
) STRICT, WITHOUT ROWID;

CREATE INDEX instance_on_host ON instance (host, backend, name);
CREATE INDEX instance_by_name ON instance (name);

-- The wish that an elastic IP reach an instance. One row per address and one per instance.
CREATE TABLE association (
    address       INTEGER NOT NULL,
    instance_id   BLOB    NOT NULL,
    host          TEXT    NOT NULL,
    generation    INTEGER NOT NULL,
    associated_at INTEGER NOT NULL,
    applied_at    INTEGER,
    CONSTRAINT association_pkey PRIMARY KEY (address),
    CONSTRAINT association_one_per_instance UNIQUE (instance_id),
    CONSTRAINT association_address_fkey FOREIGN KEY (address) REFERENCES elastic_ip (address),
    CONSTRAINT association_instance_fkey FOREIGN KEY (instance_id) REFERENCES instance (id),
    CONSTRAINT association_host_fkey FOREIGN KEY (host) REFERENCES host (name)
) STRICT;

CREATE INDEX association_on_host ON association (host, address);

-- A host that had the address in its desired set, and the first generation that lacks it. Until
-- the host has reported that one, it may still answer for the address, and no other host gets it.
CREATE TABLE letting_go (
    address    INTEGER NOT NULL,
    host       TEXT    NOT NULL,
    generation INTEGER NOT NULL,
    CONSTRAINT letting_go_pkey PRIMARY KEY (address, host),
    CONSTRAINT letting_go_host_fkey FOREIGN KEY (host) REFERENCES host (name)
) STRICT, WITHOUT ROWID;

CREATE INDEX letting_go_by_host ON letting_go (host, generation);

CREATE TABLE attachment_problem (
    address INTEGER NOT NULL,
    host    TEXT    NOT NULL,
    kind    TEXT    NOT NULL,
    reason  TEXT    NOT NULL,
    since   INTEGER NOT NULL,
    CONSTRAINT attachment_problem_pkey PRIMARY KEY (address),
    CONSTRAINT attachment_problem_association_fkey FOREIGN KEY (address)
        REFERENCES association (address) ON DELETE CASCADE,
    CONSTRAINT attachment_problem_kind_is_known CHECK (kind IN ('failing', 'unknown'))
) STRICT;

CREATE INDEX attachment_problem_on_host ON attachment_problem (host);

-- Every change, in the order in which it was made: there is one writer.
CREATE TABLE event (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    at            INTEGER NOT NULL,
    kind          TEXT    NOT NULL,
    project       TEXT    NOT NULL,
    elastic_ip_id BLOB    NOT NULL,
    address       INTEGER NOT NULL,
    instance_id   BLOB,
    instance_name TEXT,
    host          TEXT,
    actor         TEXT    NOT NULL
) STRICT;

CREATE INDEX event_of_address ON event (address, seq);
