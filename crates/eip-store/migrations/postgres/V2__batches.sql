-- Quotas, a total order of events, answers that can be given again, and less for each row to wait for.

-- How many addresses a project may hold; NULL for as many as there are. What it holds is counted in
-- the transactions that allocate and release, so that no count is ever taken while others write.
ALTER TABLE project
    ADD COLUMN quota bigint,
    ADD COLUMN held  bigint NOT NULL DEFAULT 0;
UPDATE project
   SET held = (SELECT count(*) FROM elastic_ip e
                WHERE e.project = project.name AND e.released_at IS NULL);
UPDATE project SET quota = greatest(20, held) WHERE name <> 'default';
ALTER TABLE project
    ADD CONSTRAINT project_quota_is_a_count CHECK (quota >= 0),
    ADD CONSTRAINT project_holds_a_count CHECK (held >= 0);

-- The same for pools: how full one is, is read and never counted.
ALTER TABLE pool
    ADD COLUMN held   bigint NOT NULL DEFAULT 0,
    ADD COLUMN asleep bigint NOT NULL DEFAULT 0;
UPDATE pool
   SET held = (SELECT count(*) FROM elastic_ip e
                WHERE e.pool = pool.name AND e.released_at IS NULL),
       asleep = (SELECT count(*) FROM elastic_ip e
                  WHERE e.pool = pool.name AND e.released_at IS NOT NULL);
ALTER TABLE pool
    ADD CONSTRAINT pool_holds_a_count CHECK (held >= 0),
    ADD CONSTRAINT pool_sleeps_a_count CHECK (asleep >= 0);

-- seq is drawn under a lock that is held until the commit: it is the order of the commits, and a
-- reader that goes on from the last seq it saw misses nothing. The transaction is not asked for, as
-- a reader that waits for older transactions waits for those of other databases, too.
ALTER TABLE event DROP CONSTRAINT event_pkey, DROP COLUMN xid;
ALTER TABLE event ADD CONSTRAINT event_pkey PRIMARY KEY (seq);

-- The event that begins a hold is found by its time, which the hold keeps: its place in this index is
-- always the last one. Most events are such, and finding each a place by its address costs more.
DROP INDEX event_of_address;
CREATE INDEX event_of_address ON event (address, seq) WHERE kind <> 'allocated';
CREATE INDEX event_by_time ON event (at);

-- Lists are in the order of the allocations: the place of a new one is at the end of these indexes.
DROP INDEX elastic_ip_of_project;
CREATE INDEX elastic_ip_by_time ON elastic_ip (allocated_at, address) WHERE released_at IS NULL;
CREATE INDEX elastic_ip_of_project ON elastic_ip (project, allocated_at, address)
    WHERE released_at IS NULL;

-- A foreign key costs more than the row. What these said is held in other ways: an allocation locks
-- the row of its project and names a range that the server has read and that is never deleted; an
-- association locks the elastic IP, and takes the host from the instance, whose key stays.
ALTER TABLE elastic_ip
    DROP CONSTRAINT elastic_ip_range_fkey,
    DROP CONSTRAINT elastic_ip_project_fkey;
ALTER TABLE association
    DROP CONSTRAINT association_address_fkey,
    DROP CONSTRAINT association_host_fkey;

-- An update that finds room on its page leaves the indexes alone.
ALTER TABLE elastic_ip SET (fillfactor = 80);
ALTER TABLE host SET (fillfactor = 20);
ALTER TABLE project SET (fillfactor = 20);
ALTER TABLE pool SET (fillfactor = 20);

-- What was answered to a request that named an Idempotency-Key: the same answer is given again.
CREATE TABLE answer (
    owner       text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    fingerprint bytea            NOT NULL,
    elastic_ip  jsonb            NOT NULL,
    answered_at timestamptz      NOT NULL,
    repeated    bigint           NOT NULL,
    CONSTRAINT answer_pkey PRIMARY KEY (owner, key),
    CONSTRAINT answer_fingerprint_is_sha256 CHECK (length(fingerprint) = 32)
);

CREATE INDEX answer_by_age ON answer (answered_at);

-- A report makes some associations of its host applied: those that are not, whatever their number.
CREATE INDEX association_pending ON association (host, generation) WHERE applied_at IS NULL;

-- Without it a planner takes the ranges for a thousand.
ANALYZE pool_range;
