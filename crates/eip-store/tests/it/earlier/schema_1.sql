-- Rows of every table of schema 1. Written once for both databases: <t:S> is the time S seconds
-- after the start of the story, <u:N> an id, <e:N> the id of an elastic IP for address N of the range,
-- <b:N> thirty-two bytes.

INSERT INTO cluster (id) VALUES (<u:9000>);
INSERT INTO project (name, created_at) VALUES
    ('default', <t:0>), ('acme', <t:1>), ('many', <t:2>), ('idle', <t:3>);
INSERT INTO pool (name, quarantine_seconds, created_at) VALUES
    ('public', 600, <t:0>), ('spare', 0, <t:4>);
INSERT INTO pool_range (first, size, pool, position) VALUES
    (1681915904, 256, 'public', 0), (1681916928, 16, 'public', 1), (3405803776, 8, 'spare', 0);
INSERT INTO api_key (id, digest, role, project, host, created_at, expires_at, revoked_at) VALUES
    ('k-admin', <b:1>, 'admin', 'default', NULL, <t:0>, NULL, NULL),
    ('k-agent', <b:2>, 'agent', NULL, 'hv1', <t:0>, <t:90>, NULL),
    ('k-gone', <b:3>, 'reader', 'acme', NULL, <t:0>, NULL, <t:50>);

-- 1 held and named, 2 associated, 3 asleep, 4 held and still being let go of, 5 associated and
-- failing.
INSERT INTO elastic_ip (address, id, range_first, range_size, pool, project, name, tags,
                        allocated_at, updated_at, revision, released_at, quarantine_until) VALUES
    (1681915905, <e:1>, 1681915904, 256, 'public', 'default', 'web', '{"env": "prod", "a": "b"}',
     <t:10>, <t:11>, 2, NULL, NULL),
    (1681915906, <e:2>, 1681915904, 256, 'public', 'default', NULL, '{}',
     <t:12>, <t:13>, 2, NULL, NULL),
    (1681915907, <e:3>, 1681915904, 256, 'public', 'acme', 'old', '{}',
     <t:14>, <t:60>, 3, <t:60>, <t:660>),
    (1681915908, <e:4>, 1681915904, 256, 'public', 'acme', 'api', '{}',
     <t:16>, <t:17>, 3, NULL, NULL),
    (1681915909, <e:5>, 1681915904, 256, 'public', 'default', 'db', '{}',
     <t:18>, <t:19>, 2, NULL, NULL);
INSERT INTO past_allocation (address, allocated_at, elastic_ip_id, project, pool, name, released_at)
VALUES
    (1681915907, <t:14>, <e:3>, 'acme', 'public', 'old', <t:60>),
    (1681915906, <t:5>, <u:600>, 'acme', 'public', NULL, <t:6>);

INSERT INTO host (name, generation, observed_generation, health, health_reason, backends,
                  first_seen_at, last_seen_at) VALUES
    ('hv1', 7, 6, 'ready', NULL, '[{"backend": "docker", "reachable": true, "reason": null}]', <t:1>, <t:80>),
    ('hv2', 4, 2, 'failing', 'no such device', '[]', <t:2>, <t:81>);
INSERT INTO instance (id, host, backend, name, project, state, private_ip, vpc_id, unusable,
                      updated_at) VALUES
    (<u:1>, 'hv1', 'docker', 'web-1', 'default', 'running', 2886795266, 'bridge', NULL, <t:5>),
    (<u:2>, 'hv1', 'sandbox', 'db-1', 'default', 'running', 2886795267, NULL, NULL, <t:5>),
    (<u:3>, 'hv2', 'docker', 'off-1', 'acme', 'stopped', NULL, NULL, NULL, <t:5>);
INSERT INTO association (address, instance_id, host, generation, associated_at, applied_at) VALUES
    (1681915906, <u:1>, 'hv1', 6, <t:13>, <t:15>),
    (1681915909, <u:2>, 'hv1', 6, <t:19>, NULL);
INSERT INTO letting_go (address, host, generation) VALUES (1681915908, 'hv2', 4);
INSERT INTO attachment_problem (address, host, kind, reason, since) VALUES
    (1681915909, 'hv1', 'failing', 'the port is taken', <t:20>);

INSERT INTO event (at, kind, project, elastic_ip_id, address, instance_id, instance_name, host,
                   actor) VALUES
    (<t:5>, 'allocated', 'acme', <u:600>, 1681915906, NULL, NULL, NULL, 'k-admin'),
    (<t:6>, 'released', 'acme', <u:600>, 1681915906, NULL, NULL, NULL, 'k-admin'),
    (<t:10>, 'allocated', 'default', <e:1>, 1681915905, NULL, NULL, NULL, 'k-admin'),
    (<t:12>, 'allocated', 'default', <e:2>, 1681915906, NULL, NULL, NULL, 'k-admin'),
    (<t:13>, 'associated', 'default', <e:2>, 1681915906, <u:1>, 'web-1', 'hv1', 'k-admin'),
    (<t:14>, 'allocated', 'acme', <e:3>, 1681915907, NULL, NULL, NULL, 'k-admin'),
    (<t:16>, 'allocated', 'acme', <e:4>, 1681915908, NULL, NULL, NULL, 'k-admin'),
    (<t:17>, 'disassociated', 'acme', <e:4>, 1681915908, <u:3>, 'off-1', 'hv2', 'k-admin'),
    (<t:18>, 'allocated', 'default', <e:5>, 1681915909, NULL, NULL, NULL, 'k-admin'),
    (<t:19>, 'associated', 'default', <e:5>, 1681915909, <u:2>, 'db-1', 'hv1', 'k-admin'),
    (<t:60>, 'released', 'acme', <e:3>, 1681915907, NULL, NULL, NULL, 'k-admin');
