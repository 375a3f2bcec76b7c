-- The sync of gateways: keys that batches are sealed for, which batches of a stream have arrived, the latest value of each series, losses, and what
-- gateways say of themselves. The points themselves are blocks of metric_blocks, under the stream gw/<epoch>/<stream>.

CREATE TABLE ingest_keys (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    -- The first eight bytes of the public key, as batches name it.
    id BYTEA NOT NULL,
    public_key BYTEA NOT NULL,
    -- The secret half, under the master key.
    wrapped_key BYTEA NOT NULL,
    -- current, or retired: opens what was sealed for it, and seals nothing more.
    state TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    retired_at BIGINT,
    PRIMARY KEY (tenant, id)
);
CREATE UNIQUE INDEX ingest_keys_current ON ingest_keys (tenant) WHERE state = 'current';

-- A stream of one life of a device's journal.
CREATE TABLE sync_streams (
    tenant UUID NOT NULL,
    device UUID NOT NULL,
    epoch BIGINT NOT NULL,
    stream TEXT NOT NULL,
    class TEXT NOT NULL,
    -- Everything below has arrived, or is settled on the device.
    floor BIGINT NOT NULL,
    -- Ranges that arrived above it.
    above JSONB NOT NULL,
    batches BIGINT NOT NULL,
    points BIGINT NOT NULL,
    -- As sealed.
    bytes BIGINT NOT NULL,
    -- Batches that can never be read.
    refused BIGINT NOT NULL DEFAULT 0,
    -- Time of the newest point.
    newest_at BIGINT,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, device, epoch, stream),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX sync_streams_age ON sync_streams (last_at);

CREATE TABLE series_latest (
    tenant UUID NOT NULL,
    device UUID NOT NULL,
    stream TEXT NOT NULL,
    -- The first 16 bytes of the key's SHA-256.
    series BYTEA NOT NULL,
    measurement TEXT NOT NULL,
    field TEXT NOT NULL,
    tags JSONB NOT NULL,
    -- float, integer, boolean, text or json
    kind TEXT NOT NULL,
    at_ns BIGINT NOT NULL,
    -- JSON, cut to a length that people can read.
    value TEXT NOT NULL,
    PRIMARY KEY (tenant, device, stream, series),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX series_latest_measurement ON series_latest (tenant, measurement);
CREATE INDEX series_latest_age ON series_latest (at_ns);

-- What a gateway discarded or found damaged, as it said.
CREATE TABLE sync_losses (
    tenant UUID NOT NULL,
    device UUID NOT NULL,
    epoch BIGINT NOT NULL,
    -- The batch that told it, and which in there.
    told_in BIGINT NOT NULL,
    number BIGINT NOT NULL,
    stream TEXT NOT NULL,
    reason TEXT NOT NULL,
    points BIGINT NOT NULL,
    from_ms BIGINT NOT NULL,
    to_ms BIGINT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (tenant, device, epoch, told_in, number),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX sync_losses_age ON sync_losses (at);

-- What a gateway said of itself the last time.
CREATE TABLE sync_gateways (
    tenant UUID NOT NULL,
    device UUID NOT NULL,
    epoch BIGINT NOT NULL,
    reported_at BIGINT NOT NULL,
    report JSONB NOT NULL,
    PRIMARY KEY (tenant, device),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);

-- As in 0002, for the tables of this migration.
DO $$
DECLARE t TEXT;
BEGIN
    FOREACH t IN ARRAY ARRAY['ingest_keys', 'sync_streams', 'series_latest', 'sync_losses', 'sync_gateways'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format(
            'CREATE POLICY tenant_only ON %I USING (current_setting(''farshore.tenant'', TRUE) = ''*''
             OR tenant = nullif(nullif(current_setting(''farshore.tenant'', TRUE), ''''), ''*'')::uuid)', t);
    END LOOP;
END $$;
