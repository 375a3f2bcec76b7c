-- Incidents as devices tell them, the evidence that came with them, alerts, and what was sent to whom.

CREATE TABLE incidents (
    tenant BLOB NOT NULL,
    uid BLOB NOT NULL,
    name TEXT NOT NULL,
    device BLOB NOT NULL,
    -- Empty when it concerns the whole device.
    app TEXT NOT NULL,
    cause TEXT NOT NULL,
    -- open or resolved
    state TEXT NOT NULL,
    message TEXT NOT NULL,
    release BLOB,
    version TEXT NOT NULL,
    rollout BLOB,
    started_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    -- When the device was well again.
    ended_at INTEGER,
    resolved_at INTEGER,
    resolved_by TEXT NOT NULL DEFAULT '',
    acknowledged_at INTEGER,
    acknowledged_by TEXT NOT NULL DEFAULT '',
    signs INTEGER NOT NULL,
    actions TEXT NOT NULL,
    -- What people said and did about it.
    history TEXT NOT NULL DEFAULT '[]',
    resource_version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, uid),
    UNIQUE (tenant, name),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX incidents_device ON incidents (tenant, device, started_at);
CREATE INDEX incidents_rollout ON incidents (tenant, rollout) WHERE rollout IS NOT NULL;
CREATE INDEX incidents_state ON incidents (tenant, state, started_at);

CREATE TABLE incident_evidence (
    tenant BLOB NOT NULL,
    incident BLOB NOT NULL,
    part TEXT NOT NULL,
    taken_at INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (tenant, incident, part),
    FOREIGN KEY (tenant, incident) REFERENCES incidents (tenant, uid) ON DELETE CASCADE
);

CREATE TABLE alerts (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid BLOB NOT NULL,
    -- The same rule about the same thing: at most one of them is not over.
    fingerprint TEXT NOT NULL,
    rule TEXT NOT NULL,
    severity TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject BLOB NOT NULL,
    subject_name TEXT NOT NULL,
    location TEXT NOT NULL,
    labels TEXT NOT NULL,
    summary TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at INTEGER,
    acknowledged_at INTEGER,
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
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid BLOB NOT NULL,
    route BLOB NOT NULL,
    route_name TEXT NOT NULL,
    group_key TEXT NOT NULL,
    alerts TEXT NOT NULL,
    -- queued, delivered or dead
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at INTEGER NOT NULL,
    last_error TEXT NOT NULL DEFAULT '',
    created_at INTEGER NOT NULL,
    finished_at INTEGER,
    PRIMARY KEY (tenant, uid)
);
CREATE INDEX alert_deliveries_due ON alert_deliveries (next_at) WHERE state = 'queued';
