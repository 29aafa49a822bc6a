-- How elastic IPs reach instances: rewritten to their private addresses (nat), or as they are, on the
-- instances' own interfaces (alias).
ALTER TABLE pool ADD COLUMN mode text COLLATE "C" NOT NULL DEFAULT 'nat'
    CONSTRAINT pool_mode_is_known CHECK (mode IN ('nat', 'alias'));

-- The network is one of the instance's that a caller has named; NULL for its first choice.
ALTER TABLE association
    ADD COLUMN mode text COLLATE "C" NOT NULL DEFAULT 'nat'
        CONSTRAINT association_mode_is_known CHECK (mode IN ('nat', 'alias')),
    ADD COLUMN network text COLLATE "C";

-- The modes in which it can be reached, separated by spaces, and its interfaces as its host tells them.
ALTER TABLE instance
    ADD COLUMN modes text COLLATE "C" NOT NULL DEFAULT 'nat',
    ADD COLUMN interfaces jsonb NOT NULL DEFAULT '[]'
        CONSTRAINT instance_interfaces_are_a_list CHECK (jsonb_typeof(interfaces) = 'array');

ALTER TABLE attachment_problem
    DROP CONSTRAINT attachment_problem_kind_is_known,
    ADD CONSTRAINT attachment_problem_kind_is_known CHECK (kind IN ('pending', 'failing', 'unknown'));
