-- The record, in PostgreSQL 13 or newer. sqlite/V1__the_record.sql tells the same story.
--
-- An address is stored as the number that its four bytes make. Every rule has a name, so that a
-- program and a person at a prompt are told the same when they break it. Text that is compared or
-- sorted has the collation "C": the order is the same in every locale and in SQLite.

CREATE TABLE cluster (
    only_row boolean NOT NULL DEFAULT true,
    id       uuid    NOT NULL,
    CONSTRAINT cluster_pkey PRIMARY KEY (only_row),
    CONSTRAINT cluster_has_one_row CHECK (only_row)
);

CREATE TABLE project (
    name       text COLLATE "C" NOT NULL,
    created_at timestamptz      NOT NULL,
    CONSTRAINT project_pkey PRIMARY KEY (name)
);

CREATE TABLE pool (
    name               text COLLATE "C" NOT NULL,
    quarantine_seconds bigint           NOT NULL,
    created_at         timestamptz      NOT NULL,
    CONSTRAINT pool_pkey PRIMARY KEY (name),
    CONSTRAINT pool_quarantine_is_a_time CHECK (quarantine_seconds BETWEEN 0 AND 4294967295)
);

CREATE TABLE pool_range (
    first    bigint           NOT NULL,
    size     bigint           NOT NULL,
    pool     text COLLATE "C" NOT NULL,
    position bigint           NOT NULL,
    CONSTRAINT pool_range_pkey PRIMARY KEY (first),
    -- What an elastic IP refers to: its address is looked up by way of its range.
    CONSTRAINT pool_range_is_one_thing UNIQUE (first, size, pool),
    CONSTRAINT pool_range_pool_fkey FOREIGN KEY (pool) REFERENCES pool (name),
    CONSTRAINT pool_range_is_ipv4 CHECK (first >= 0 AND first + size <= 4294967296),
    CONSTRAINT pool_range_fits_the_id CHECK (size BETWEEN 1 AND 16777216)
);

CREATE TABLE api_key (
    id         text COLLATE "C" NOT NULL,
    digest     bytea            NOT NULL,
    role       text COLLATE "C" NOT NULL,
    project    text COLLATE "C",
    host       text COLLATE "C",
    created_at timestamptz      NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT api_key_pkey PRIMARY KEY (id),
    CONSTRAINT api_key_digest_is_its_own UNIQUE (digest),
    CONSTRAINT api_key_digest_is_sha256 CHECK (length(digest) = 32),
    CONSTRAINT api_key_role_has_its_part CHECK (
        (role IN ('admin', 'member', 'reader') AND project IS NOT NULL AND host IS NULL)
        OR (role = 'agent' AND project IS NULL AND host IS NOT NULL))
);

-- An address that is held, or asleep after its release. The primary key is what makes two holders
-- of one address impossible. There is no index on id: an id says which address it may stand for.
CREATE TABLE elastic_ip (
    address          bigint           NOT NULL,
    id               uuid             NOT NULL,
    range_first      bigint           NOT NULL,
    range_size       bigint           NOT NULL,
    pool             text COLLATE "C" NOT NULL,
    project          text COLLATE "C" NOT NULL,
    name             text COLLATE "C",
    tags             jsonb            NOT NULL,
    allocated_at     timestamptz      NOT NULL,
    updated_at       timestamptz      NOT NULL,
    revision         bigint           NOT NULL,
    released_at      timestamptz,
    quarantine_until timestamptz,
    CONSTRAINT elastic_ip_pkey PRIMARY KEY (address),
    CONSTRAINT elastic_ip_range_fkey FOREIGN KEY (range_first, range_size, pool)
        REFERENCES pool_range (first, size, pool),
    CONSTRAINT elastic_ip_project_fkey FOREIGN KEY (project) REFERENCES project (name),
    -- Bytes 12, 13 and 14 of the id, big-endian, modulo the size of the range.
    CONSTRAINT elastic_ip_id_stands_for_address CHECK (
        address = range_first
            + (get_byte(uuid_send(id), 12) * 65536
               + get_byte(uuid_send(id), 13) * 256
               + get_byte(uuid_send(id), 14)) % range_size),
    CONSTRAINT elastic_ip_tags_are_pairs CHECK (jsonb_typeof(tags) = 'object'),
    CONSTRAINT elastic_ip_released_sleeps CHECK (
        (released_at IS NULL) = (quarantine_until IS NULL))
);

CREATE UNIQUE INDEX elastic_ip_name_in_project ON elastic_ip (project, name)
    WHERE released_at IS NULL AND name IS NOT NULL;
CREATE INDEX elastic_ip_of_project ON elastic_ip (project, address) WHERE released_at IS NULL;
CREATE INDEX elastic_ip_asleep ON elastic_ip (quarantine_until) WHERE released_at IS NOT NULL;

-- Who held which address and when, for ever.
CREATE TABLE past_allocation (
    address       bigint           NOT NULL,
    allocated_at  timestamptz      NOT NULL,
    elastic_ip_id uuid             NOT NULL,
    project       text COLLATE "C" NOT NULL,
    pool          text COLLATE "C" NOT NULL,
    name          text COLLATE "C",
    released_at   timestamptz      NOT NULL,
    CONSTRAINT past_allocation_pkey PRIMARY KEY (address, allocated_at, elastic_ip_id)
);

CREATE TABLE host (
    name                text COLLATE "C" NOT NULL,
    generation          bigint           NOT NULL,
    observed_generation bigint           NOT NULL,
    health              text COLLATE "C" NOT NULL,
    health_reason       text,
    backends            jsonb            NOT NULL,
    first_seen_at       timestamptz      NOT NULL,
    last_seen_at        timestamptz      NOT NULL,
    CONSTRAINT host_pkey PRIMARY KEY (name),
    CONSTRAINT host_observed_what_was_desired CHECK (
        observed_generation BETWEEN 0 AND generation),
    CONSTRAINT host_ill_health_has_a_reason CHECK (
        (health = 'ready' AND health_reason IS NULL)
        OR (health IN ('absent', 'failing') AND health_reason IS NOT NULL))
);

CREATE TABLE instance (
    id         uuid             NOT NULL,
    host       text COLLATE "C" NOT NULL,
    backend    text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    project    text COLLATE "C" NOT NULL,
    state      text COLLATE "C" NOT NULL,
    private_ip bigint,
    vpc_id     text COLLATE "C",
    unusable   text COLLATE "C",
    updated_at timestamptz      NOT NULL,
    CONSTRAINT instance_pkey PRIMARY KEY (id),
    CONSTRAINT instance_host_fkey FOREIGN KEY (host) REFERENCES host (name),
    CONSTRAINT instance_state_is_known CHECK (state IN ('running', 'paused', 'stopped'))
);

CREATE INDEX instance_on_host ON instance (host, backend, name);
CREATE INDEX instance_by_name ON instance (name);

-- The wish that an elastic IP reach an instance. One row per address and one per instance.
CREATE TABLE association (
    address       bigint           NOT NULL,
    instance_id   uuid             NOT NULL,
    host          text COLLATE "C" NOT NULL,
    generation    bigint           NOT NULL,
    associated_at timestamptz      NOT NULL,
    applied_at    timestamptz,
    CONSTRAINT association_pkey PRIMARY KEY (address),
    CONSTRAINT association_one_per_instance UNIQUE (instance_id),
    CONSTRAINT association_address_fkey FOREIGN KEY (address) REFERENCES elastic_ip (address),
    CONSTRAINT association_instance_fkey FOREIGN KEY (instance_id) REFERENCES instance (id),
    CONSTRAINT association_host_fkey FOREIGN KEY (host) REFERENCES host (name)
);

CREATE INDEX association_on_host ON association (host, address);

-- A host that had the address in its desired set, and the first generation that lacks it. Until
-- the host has reported that one, it may still answer for the address, and no other host gets it.
CREATE TABLE letting_go (
    address    bigint           NOT NULL,
    host       text COLLATE "C" NOT NULL,
    generation bigint           NOT NULL,
    CONSTRAINT letting_go_pkey PRIMARY KEY (address, host),
    CONSTRAINT letting_go_host_fkey FOREIGN KEY (host) REFERENCES host (name)
);

CREATE INDEX letting_go_by_host ON letting_go (host, generation);

CREATE TABLE attachment_problem (
    address bigint           NOT NULL,
    host    text COLLATE "C" NOT NULL,
    kind    text COLLATE "C" NOT NULL,
    reason  text             NOT NULL,
    since   timestamptz      NOT NULL,
    CONSTRAINT attachment_problem_pkey PRIMARY KEY (address),
    CONSTRAINT attachment_problem_association_fkey FOREIGN KEY (address)
        REFERENCES association (address) ON DELETE CASCADE,
    CONSTRAINT attachment_problem_kind_is_known CHECK (kind IN ('failing', 'unknown'))
);

CREATE INDEX attachment_problem_on_host ON attachment_problem (host);

-- Every change. A reader that follows the table takes rows with xid below
-- pg_snapshot_xmin(pg_current_snapshot()) in the order (xid, seq): a bare sequence is drawn before
-- the commit, and a reader that trusts it loses rows. The order within one address is that of seq,
-- which is drawn while the row of the address is locked.
CREATE TABLE event (
    xid           xid8             NOT NULL DEFAULT pg_current_xact_id(),
    seq           bigserial        NOT NULL,
    at            timestamptz      NOT NULL,
    kind          text COLLATE "C" NOT NULL,
    project       text COLLATE "C" NOT NULL,
    elastic_ip_id uuid             NOT NULL,
    address       bigint           NOT NULL,
    instance_id   uuid,
    instance_name text,
    host          text COLLATE "C",
    actor         text             NOT NULL,
    CONSTRAINT event_pkey PRIMARY KEY (xid, seq)
);

CREATE INDEX event_of_address ON event (address, seq);
