-- What those who run the service for others need. postgres/V9__tenants.sql tells the same story.
ALTER TABLE api_key ADD COLUMN name TEXT;
ALTER TABLE api_key ADD COLUMN last_used_at INTEGER;

ALTER TABLE pool ADD COLUMN projects TEXT
    CONSTRAINT pool_projects_are_a_list CHECK (json_type(projects) = 'array');
ALTER TABLE pool ADD COLUMN reserved TEXT NOT NULL DEFAULT '[]'
    CONSTRAINT pool_reserved_is_a_list CHECK (json_type(reserved) = 'array');
ALTER TABLE pool ADD COLUMN draining INTEGER NOT NULL DEFAULT 0
    CONSTRAINT pool_drains_or_not CHECK (draining IN (0, 1));
ALTER TABLE pool_range ADD COLUMN open INTEGER NOT NULL DEFAULT 1
    CONSTRAINT pool_range_is_open_or_not CHECK (open IN (0, 1));

ALTER TABLE elastic_ip ADD COLUMN protected INTEGER NOT NULL DEFAULT 0
    CONSTRAINT elastic_ip_is_protected_or_not CHECK (protected IN (0, 1));

ALTER TABLE answer RENAME COLUMN elastic_ip TO outcome;
ALTER TABLE answer ADD COLUMN body TEXT;
