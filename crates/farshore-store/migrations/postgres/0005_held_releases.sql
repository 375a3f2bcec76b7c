-- Releases that went wrong in a channel. No rollout brings one there again until somebody ends the hold.
CREATE TABLE held_releases (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    app TEXT NOT NULL,
    channel TEXT NOT NULL,
    release UUID NOT NULL,
    -- The rollout that went wrong.
    rollout UUID NOT NULL,
    rollout_name TEXT NOT NULL,
    reason TEXT NOT NULL,
    held_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, app, channel, release)
);
ALTER TABLE held_releases ENABLE ROW LEVEL SECURITY;
ALTER TABLE held_releases FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON held_releases USING (current_setting('farshore.tenant', TRUE) = '*'
    OR tenant = nullif(nullif(current_setting('farshore.tenant', TRUE), ''), '*')::uuid);

-- What rollouts count of their devices' events.
CREATE INDEX events_kind ON events (tenant, kind, at);
