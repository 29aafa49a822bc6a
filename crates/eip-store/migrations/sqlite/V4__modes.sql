-- How elastic IPs reach instances: rewritten to their private addresses (nat), or as they are, on the
-- instances' own interfaces (alias).
ALTER TABLE pool ADD COLUMN mode TEXT NOT NULL DEFAULT 'nat'
    CONSTRAINT pool_mode_is_known CHECK (mode IN ('nat', 'alias'));

-- The network is one of the instance's that a caller has named; NULL for its first choice.
ALTER TABLE association ADD COLUMN mode TEXT NOT NULL DEFAULT 'nat'
    CONSTRAINT association_mode_is_known CHECK (mode IN ('nat', 'alias'));
ALTER TABLE association ADD COLUMN network TEXT;

-- The modes in which it can be reached, separated by spaces, and its interfaces as its host tells them.
ALTER TABLE instance ADD COLUMN modes TEXT NOT NULL DEFAULT 'nat';
ALTER TABLE instance ADD COLUMN interfaces TEXT NOT NULL DEFAULT '[]'
    CONSTRAINT instance_interfaces_are_a_list CHECK (json_type(interfaces) = 'array');

-- A rule of a table cannot be changed: the table is made anew.
CREATE TABLE attachment_problem_anew (
    address INTEGER NOT NULL,
    host    TEXT    NOT NULL,
    kind    TEXT    NOT NULL,
    reason  TEXT    NOT NULL,
    since   INTEGER NOT NULL,
    CONSTRAINT attachment_problem_pkey PRIMARY KEY (address),
    CONSTRAINT attachment_problem_association_fkey FOREIGN KEY (address)
        REFERENCES association (address) ON DELETE CASCADE,
    CONSTRAINT attachment_problem_kind_is_known CHECK (kind IN ('pending', 'failing', 'unknown'))
) STRICT;
INSERT INTO attachment_problem_anew (address, host, kind, reason, since)
    SELECT address, host, kind, reason, since FROM attachment_problem;
DROP TABLE attachment_problem;
ALTER TABLE attachment_problem_anew RENAME TO attachment_problem;
CREATE INDEX attachment_problem_on_host ON attachment_problem (host);
