-- Quotas, and answers that can be given again. postgres/V2__batches.sql tells the same story; its
-- other parts concern what costs nothing here.

ALTER TABLE project ADD COLUMN quota INTEGER
    CONSTRAINT project_quota_is_a_count CHECK (quota >= 0);
ALTER TABLE project ADD COLUMN held INTEGER NOT NULL DEFAULT 0
    CONSTRAINT project_holds_a_count CHECK (held >= 0);
UPDATE project
   SET held = (SELECT count(*) FROM elastic_ip e
                WHERE e.project = project.name AND e.released_at IS NULL);
UPDATE project SET quota = max(20, held) WHERE name <> 'default';

ALTER TABLE pool ADD COLUMN held INTEGER NOT NULL DEFAULT 0
    CONSTRAINT pool_holds_a_count CHECK (held >= 0);
ALTER TABLE pool ADD COLUMN asleep INTEGER NOT NULL DEFAULT 0
    CONSTRAINT pool_sleeps_a_count CHECK (asleep >= 0);
UPDATE pool
   SET held = (SELECT count(*) FROM elastic_ip e
                WHERE e.pool = pool.name AND e.released_at IS NULL),
       asleep = (SELECT count(*) FROM elastic_ip e
                  WHERE e.pool = pool.name AND e.released_at IS NOT NULL);

DROP INDEX event_of_address;
CREATE INDEX event_of_address ON event (address, seq) WHERE kind <> 'allocated';
CREATE INDEX event_by_time ON event (at);

DROP INDEX elastic_ip_of_project;
CREATE INDEX elastic_ip_by_time ON elastic_ip (allocated_at, address) WHERE released_at IS NULL;
CREATE INDEX elastic_ip_of_project ON elastic_ip (project, allocated_at, address)
    WHERE released_at IS NULL;

CREATE TABLE answer (
    owner       TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL,
    elastic_ip  TEXT    NOT NULL,
    answered_at INTEGER NOT NULL,
    repeated    INTEGER NOT NULL,
    CONSTRAINT answer_pkey PRIMARY KEY (owner, key),
    CONSTRAINT answer_fingerprint_is_sha256 CHECK (length(fingerprint) = 32)
) STRICT, WITHOUT ROWID;

CREATE INDEX answer_by_age ON answer (answered_at);

-- A report makes some associations of its host applied: those that are not, whatever their number.
CREATE INDEX association_pending ON association (host, generation) WHERE applied_at IS NULL;

-- Without it a planner takes the ranges for a thousand.
ANALYZE pool_range;
