-- How the private address of a virtual machine is known; NULL where its backend gave it.
ALTER TABLE instance ADD COLUMN address_source text COLLATE "C"
    CONSTRAINT instance_address_source_is_known
    CHECK (address_source IN ('agent', 'lease', 'neighbour', 'metadata'));
