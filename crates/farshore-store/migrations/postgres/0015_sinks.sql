-- Sinks: how far each has come in every stream, and how it stands.

-- Which batch of its stream it is, in the order in which they came (1, 2, …). 0: not from a gateway, or from before there were sinks.
ALTER TABLE metric_blocks ADD COLUMN arrived BIGINT NOT NULL DEFAULT 0;
CREATE INDEX metric_blocks_arrived ON metric_blocks (tenant, device, stream, arrived) WHERE arrived > 0;

CREATE TABLE sink_cursors (
    tenant UUID NOT NULL,
    sink UUID NOT NULL,
    device UUID NOT NULL,
    epoch BIGINT NOT NULL,
    stream TEXT NOT NULL,
    -- Everything up to here was handed over, or passed over.
    arrived BIGINT NOT NULL,
    -- Parts of the batch after it that were handed over.
    part BIGINT NOT NULL DEFAULT 0,
    -- How often the batch after it was refused.
    attempts BIGINT NOT NULL DEFAULT 0,
    next_at BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, sink, device, epoch, stream),
    FOREIGN KEY (tenant, sink) REFERENCES objects (tenant, uid) ON DELETE CASCADE,
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX sink_cursors_device ON sink_cursors (tenant, device);

CREATE TABLE sink_states (
    tenant UUID NOT NULL,
    sink UUID NOT NULL,
    -- Counts what was written as one.
    round BIGINT NOT NULL DEFAULT 0,
    delivered_batches BIGINT NOT NULL DEFAULT 0,
    delivered_points BIGINT NOT NULL DEFAULT 0,
    skipped_batches BIGINT NOT NULL DEFAULT 0,
    delivered_at BIGINT,
    -- Failures in a row, whichever stream.
    attempts BIGINT NOT NULL DEFAULT 0,
    next_at BIGINT NOT NULL DEFAULT 0,
    last_error TEXT NOT NULL DEFAULT '',
    failed_at BIGINT,
    PRIMARY KEY (tenant, sink),
    FOREIGN KEY (tenant, sink) REFERENCES objects (tenant, uid) ON DELETE CASCADE
);

-- As in 0002, for the tables of this migration.
DO $$
DECLARE t TEXT;
BEGIN
    FOREACH t IN ARRAY ARRAY['sink_cursors', 'sink_states'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format(
            'CREATE POLICY tenant_only ON %I USING (current_setting(''farshore.tenant'', TRUE) = ''*''
             OR tenant = nullif(nullif(current_setting(''farshore.tenant'', TRUE), ''''), ''*'')::uuid)', t);
    END LOOP;
END $$;
