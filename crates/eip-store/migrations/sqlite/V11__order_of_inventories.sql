-- The last inventory of a host that was taken in. postgres/V11__order_of_inventories.sql tells the same story.
ALTER TABLE host ADD COLUMN inventory_run INTEGER NOT NULL DEFAULT 0;
ALTER TABLE host ADD COLUMN inventory_number INTEGER NOT NULL DEFAULT 0;
