-- Sinks: how far each has come in every stream, and how it stands.

-- Which batch of its stream it is, in the order in which they came (1, 2, …). 0: not from a gateway, or from before there were sinks.
ALTER TABLE metric_blocks ADD COLUMN arrived INTEGER NOT NULL DEFAULT 0;
CREATE INDEX metric_blocks_arrived ON metric_blocks (tenant, device, stream, arrived) WHERE arrived > 0;

CREATE TABLE sink_cursors (
    tenant BLOB NOT NULL,
    sink BLOB NOT NULL,
    device BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    stream TEXT NOT NULL,
    -- Everything up to here was handed over, or passed over.
    arrived INTEGER NOT NULL,
    -- Parts of the batch after it that were handed over.
    part INTEGER NOT NULL DEFAULT 0,
    -- How often the batch after it was refused.
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, sink, device, epoch, stream),
    FOREIGN KEY (tenant, sink) REFERENCES objects (tenant, uid) ON DELETE CASCADE,
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX sink_cursors_device ON sink_cursors (tenant, device);

CREATE TABLE sink_states (
    tenant BLOB NOT NULL,
    sink BLOB NOT NULL,
    -- Counts what was written as one.
    round INTEGER NOT NULL DEFAULT 0,
    delivered_batches INTEGER NOT NULL DEFAULT 0,
    delivered_points INTEGER NOT NULL DEFAULT 0,
    skipped_batches INTEGER NOT NULL DEFAULT 0,
    delivered_at INTEGER,
    -- Failures in a row, whichever stream.
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at INTEGER NOT NULL DEFAULT 0,
    last_error TEXT NOT NULL DEFAULT '',
    failed_at INTEGER,
    PRIMARY KEY (tenant, sink),
    FOREIGN KEY (tenant, sink) REFERENCES objects (tenant, uid) ON DELETE CASCADE
);
