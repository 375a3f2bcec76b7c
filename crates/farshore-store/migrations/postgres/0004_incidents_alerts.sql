-- Incidents as devices tell them, the evidence that came with them, alerts, and what was sent to whom.

CREATE TABLE incidents (
    tenant UUID NOT NULL,
    uid UUID NOT NULL,
    name TEXT NOT NULL,
    device UUID NOT NULL,
    -- Empty when it concerns the whole device.
    app TEXT NOT NULL,
    cause TEXT NOT NULL,
    -- open or resolved
    state TEXT NOT NULL,
    message TEXT NOT NULL,
    release UUID,
    version TEXT NOT NULL,
    rollout UUID,
    started_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    -- When the device was well again.
    ended_at BIGINT,
    resolved_at BIGINT,
    resolved_by TEXT NOT NULL DEFAULT '',
    acknowledged_at BIGINT,
    acknowledged_by TEXT NOT NULL DEFAULT '',
    signs BIGINT NOT NULL,
    actions JSONB NOT NULL,
    -- What people said and did about it.
    history JSONB NOT NULL DEFAULT '[]',
    resource_version BIGINT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, uid),
    UNIQUE (tenant, name),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX incidents_device ON incidents (tenant, device, started_at);
CREATE INDEX incidents_rollout ON incidents (tenant, rollout) WHERE rollout IS NOT NULL;
CREATE INDEX incidents_state ON incidents (tenant, state, started_at);

CREATE TABLE incident_evidence (
    tenant UUID NOT NULL,
    incident UUID NOT NULL,
    part TEXT NOT NULL,
    taken_at BIGINT NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (tenant, incident, part),
    FOREIGN KEY (tenant, incident) REFERENCES incidents (tenant, uid) ON DELETE CASCADE
);

CREATE TABLE alerts (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid UUID NOT NULL,
    -- The same rule about the same thing: at most one of them is not over.
    fingerprint TEXT NOT NULL,
    rule TEXT NOT NULL,
    severity TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject UUID NOT NULL,
    subject_name TEXT NOT NULL,
    location TEXT NOT NULL,
    labels JSONB NOT NULL,
    summary TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT,
    acknowledged_at BIGINT,
    acknowledged_by TEXT NOT NULL DEFAULT '',
    comment TEXT NOT NULL DEFAULT '',
    -- Set once its notifications were queued; a silenced alert is told when the silence ends before it does.
    told BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (tenant, uid)
);
CREATE UNIQUE INDEX alerts_open ON alerts (tenant, fingerprint) WHERE ended_at IS NULL;
CREATE INDEX alerts_started ON alerts (tenant, started_at);

-- One message to one route. Its uid is the webhook's id, so that a receiver can tell a repetition.
CREATE TABLE alert_deliveries (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid UUID NOT NULL,
    route UUID NOT NULL,
    route_name TEXT NOT NULL,
    group_key TEXT NOT NULL,
    alerts JSONB NOT NULL,
    -- queued, delivered or dead
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    next_at BIGINT NOT NULL,
    last_error TEXT NOT NULL DEFAULT '',
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    PRIMARY KEY (tenant, uid)
);
CREATE INDEX alert_deliveries_due ON alert_deliveries (next_at) WHERE state = 'queued';

-- As in 0002, for the tables of this migration.
DO $$
DECLARE t TEXT;
BEGIN
    FOREACH t IN ARRAY ARRAY['incidents', 'incident_evidence', 'alerts', 'alert_deliveries'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format(
            'CREATE POLICY tenant_only ON %I USING (current_setting(''farshore.tenant'', TRUE) = ''*''
             OR tenant = nullif(nullif(current_setting(''farshore.tenant'', TRUE), ''''), ''*'')::uuid)', t);
    END LOOP;
END $$;
