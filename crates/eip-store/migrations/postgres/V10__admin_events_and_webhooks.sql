-- Events that are about no elastic IP say what they are about, whatever it is: what was put right on a
-- host, and what administrators do.
ALTER TABLE event
    -- The name of a project or pool, the id of a key or webhook.
    ADD COLUMN subject text COLLATE "C",
    DROP CONSTRAINT event_is_of_an_elastic_ip_or_of_a_host,
    ADD CONSTRAINT event_says_what_it_is_about CHECK (
        (elastic_ip_id IS NOT NULL AND address IS NOT NULL AND project IS NOT NULL)
        OR (elastic_ip_id IS NULL AND address IS NULL AND detail IS NOT NULL
            AND (subject IS NOT NULL OR host IS NOT NULL)));

-- Where events are sent. The secret is kept as it is: every message is signed with it.
CREATE TABLE webhook (
    id               uuid             NOT NULL,
    -- Whose events; NULL for those of everyone.
    project          text COLLATE "C",
    name             text COLLATE "C",
    url              text COLLATE "C" NOT NULL,
    -- Which events; NULL for all.
    kinds            jsonb,
    secret           bytea            NOT NULL,
    -- The one before it signs, too, for a while.
    old_secret       bytea,
    old_secret_until timestamptz,
    created_at       timestamptz      NOT NULL,
    updated_at       timestamptz      NOT NULL,
    enabled          bigint           NOT NULL DEFAULT 1,
    -- The last event that was dealt with: those behind it are still to be sent.
    seen             bigint           NOT NULL,
    -- How many attempts have failed since one did not, and since when; the next one is not before
    -- next_at.
    failures         bigint           NOT NULL DEFAULT 0,
    failing_since    timestamptz,
    next_at          timestamptz,
    last_error       text COLLATE "C",
    delivered_at     timestamptz,
    -- The server that sends, and until when it may.
    holder           uuid,
    held_until       timestamptz,
    CONSTRAINT webhook_pkey PRIMARY KEY (id),
    CONSTRAINT webhook_project_fkey FOREIGN KEY (project)
        REFERENCES project (name) ON DELETE CASCADE,
    CONSTRAINT webhook_kinds_is_a_list CHECK (jsonb_typeof(kinds) = 'array'),
    CONSTRAINT webhook_is_enabled_or_not CHECK (enabled IN (0, 1)),
    CONSTRAINT webhook_failures_is_a_count CHECK (failures >= 0)
);

CREATE INDEX webhook_of_project ON webhook (project);

-- Names that are not used again: the history of addresses goes by them.
CREATE TABLE deleted_project (
    name       text COLLATE "C" NOT NULL,
    deleted_at timestamptz      NOT NULL,
    CONSTRAINT deleted_project_pkey PRIMARY KEY (name)
);
