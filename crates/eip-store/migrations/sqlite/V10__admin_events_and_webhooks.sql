-- Events that are about no elastic IP say what they are about, whatever it is. The table is made anew
-- for the rule. postgres/V10__admin_events_and_webhooks.sql tells the same story.
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
    -- The name of a project or pool, the id of a key or webhook.
    subject       TEXT,
    -- What the other columns do not say, for people.
    detail        TEXT,
    CONSTRAINT event_says_what_it_is_about CHECK (
        (elastic_ip_id IS NOT NULL AND address IS NOT NULL AND project IS NOT NULL)
        OR (elastic_ip_id IS NULL AND address IS NULL AND detail IS NOT NULL
            AND (subject IS NOT NULL OR host IS NOT NULL)))
) STRICT;
INSERT INTO event_anew (seq, at, kind, project, elastic_ip_id, address, instance_id, instance_name,
                        host, actor, detail)
    SELECT seq, at, kind, project, elastic_ip_id, address, instance_id, instance_name, host, actor,
           detail
      FROM event ORDER BY seq;
DELETE FROM sqlite_sequence WHERE name = 'event_anew';
INSERT INTO sqlite_sequence (name, seq)
    SELECT 'event_anew', seq FROM sqlite_sequence WHERE name = 'event';
DROP TABLE event;
ALTER TABLE event_anew RENAME TO event;
CREATE INDEX event_of_address ON event (address, seq) WHERE kind <> 'allocated';
CREATE INDEX event_by_time ON event (at);

CREATE TABLE webhook (
    id               BLOB    NOT NULL PRIMARY KEY,
    project          TEXT REFERENCES project (name) ON DELETE CASCADE,
    name             TEXT,
    url              TEXT    NOT NULL,
    kinds            TEXT,
    secret           BLOB    NOT NULL,
    old_secret       BLOB,
    old_secret_until INTEGER,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    enabled          INTEGER NOT NULL DEFAULT 1,
    seen             INTEGER NOT NULL,
    failures         INTEGER NOT NULL DEFAULT 0,
    failing_since    INTEGER,
    next_at          INTEGER,
    last_error       TEXT,
    delivered_at     INTEGER,
    holder           BLOB,
    held_until       INTEGER,
    CONSTRAINT webhook_kinds_is_a_list CHECK (json_type(kinds) = 'array'),
    CONSTRAINT webhook_is_enabled_or_not CHECK (enabled IN (0, 1)),
    CONSTRAINT webhook_failures_is_a_count CHECK (failures >= 0)
) STRICT;

CREATE INDEX webhook_of_project ON webhook (project);

-- Names that are not used again: the history of addresses goes by them.
CREATE TABLE deleted_project (
    name       TEXT    NOT NULL,
    deleted_at INTEGER NOT NULL,
    CONSTRAINT deleted_project_pkey PRIMARY KEY (name)
) STRICT, WITHOUT ROWID;
