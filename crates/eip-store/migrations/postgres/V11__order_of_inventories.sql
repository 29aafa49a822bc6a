-- The last inventory of a host that was taken in: the run of its agent, and the number that it has there. One
-- that comes late is not taken for a newer one.
ALTER TABLE host
    ADD COLUMN inventory_run    bigint NOT NULL DEFAULT 0,
    ADD COLUMN inventory_number bigint NOT NULL DEFAULT 0;
