-- Events that are about a host and about no elastic IP: what was put right there.
ALTER TABLE event
    ALTER COLUMN project DROP NOT NULL,
    ALTER COLUMN elastic_ip_id DROP NOT NULL,
    ALTER COLUMN address DROP NOT NULL,
    -- What the other columns do not say, for people.
    ADD COLUMN detail text,
    ADD CONSTRAINT event_is_of_an_elastic_ip_or_of_a_host CHECK (
        (kind <> 'data_plane_mended'
         AND project IS NOT NULL AND elastic_ip_id IS NOT NULL AND address IS NOT NULL)
        OR (kind = 'data_plane_mended'
            AND project IS NULL AND elastic_ip_id IS NULL AND address IS NULL
            AND host IS NOT NULL AND detail IS NOT NULL));
