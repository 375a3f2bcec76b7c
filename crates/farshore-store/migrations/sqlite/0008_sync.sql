-- The sync of gateways: keys that batches are sealed for, which batches of a stream have arrived, the latest value of each series, losses, and what
-- gateways say of themselves. The points themselves are blocks of metric_blocks, under the stream gw/<epoch>/<stream>.

CREATE TABLE ingest_keys (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    -- The first eight bytes of the public key, as batches name it.
    id BLOB NOT NULL,
    public_key BLOB NOT NULL,
    -- The secret half, under the master key.
    wrapped_key BLOB NOT NULL,
    -- current, or retired: opens what was sealed for it, and seals nothing more.
    state TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    retired_at INTEGER,
    PRIMARY KEY (tenant, id)
);
CREATE UNIQUE INDEX ingest_keys_current ON ingest_keys (tenant) WHERE state = 'current';

-- A stream of one life of a device's journal.
CREATE TABLE sync_streams (
    tenant BLOB NOT NULL,
    device BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    stream TEXT NOT NULL,
    class TEXT NOT NULL,
    -- Everything below has arrived, or is settled on the device.
    floor INTEGER NOT NULL,
    -- Ranges that arrived above it.
    above TEXT NOT NULL,
    batches INTEGER NOT NULL,
    points INTEGER NOT NULL,
    -- As sealed.
    bytes INTEGER NOT NULL,
    -- Batches that can never be read.
    refused INTEGER NOT NULL DEFAULT 0,
    -- Time of the newest point.
    newest_at INTEGER,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, device, epoch, stream),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX sync_streams_age ON sync_streams (last_at);

CREATE TABLE series_latest (
    tenant BLOB NOT NULL,
    device BLOB NOT NULL,
    stream TEXT NOT NULL,
    -- The first 16 bytes of the key's SHA-256.
    series BLOB NOT NULL,
    measurement TEXT NOT NULL,
    field TEXT NOT NULL,
    tags TEXT NOT NULL,
    -- float, integer, boolean, text or json
    kind TEXT NOT NULL,
    at_ns INTEGER NOT NULL,
    -- JSON, cut to a length that people can read.
    value TEXT NOT NULL,
    PRIMARY KEY (tenant, device, stream, series),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX series_latest_measurement ON series_latest (tenant, measurement);
CREATE INDEX series_latest_age ON series_latest (at_ns);

-- What a gateway discarded or found damaged, as it said.
CREATE TABLE sync_losses (
    tenant BLOB NOT NULL,
    device BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    -- The batch that told it, and which in there.
    told_in INTEGER NOT NULL,
    number INTEGER NOT NULL,
    stream TEXT NOT NULL,
    reason TEXT NOT NULL,
    points INTEGER NOT NULL,
    from_ms INTEGER NOT NULL,
    to_ms INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (tenant, device, epoch, told_in, number),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX sync_losses_age ON sync_losses (at);

-- What a gateway said of itself the last time.
CREATE TABLE sync_gateways (
    tenant BLOB NOT NULL,
    device BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    reported_at INTEGER NOT NULL,
    report TEXT NOT NULL,
    PRIMARY KEY (tenant, device),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
