-- What those who run the service for others need: keys that end and are known by name, pools of some
-- projects, pools that are closed, elastic IPs that are protected, and answers to every kind of change.
ALTER TABLE api_key
    ADD COLUMN name         text COLLATE "C",
    ADD COLUMN last_used_at timestamptz;

-- projects: who may use it, NULL for everyone. reserved: addresses that nobody gets, beside the ends of
-- its ranges. A pool that is draining hands nothing out, and its ranges are not open.
ALTER TABLE pool
    ADD COLUMN projects jsonb
        CONSTRAINT pool_projects_are_a_list CHECK (jsonb_typeof(projects) = 'array'),
    ADD COLUMN reserved jsonb NOT NULL DEFAULT '[]'
        CONSTRAINT pool_reserved_is_a_list CHECK (jsonb_typeof(reserved) = 'array'),
    ADD COLUMN draining bigint NOT NULL DEFAULT 0
        CONSTRAINT pool_drains_or_not CHECK (draining IN (0, 1));
ALTER TABLE pool_range
    ADD COLUMN open bigint NOT NULL DEFAULT 1
        CONSTRAINT pool_range_is_open_or_not CHECK (open IN (0, 1));

ALTER TABLE elastic_ip
    ADD COLUMN protected bigint NOT NULL DEFAULT 0
        CONSTRAINT elastic_ip_is_protected_or_not CHECK (protected IN (0, 1));

-- What a change came to, as it was committed; and what was answered, once it was.
ALTER TABLE answer RENAME COLUMN elastic_ip TO outcome;
ALTER TABLE answer ADD COLUMN body jsonb;
