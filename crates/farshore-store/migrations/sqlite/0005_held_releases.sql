-- Releases that went wrong in a channel. No rollout brings one there again until somebody ends the hold.
CREATE TABLE held_releases (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    app TEXT NOT NULL,
    channel TEXT NOT NULL,
    release BLOB NOT NULL,
    -- The rollout that went wrong.
    rollout BLOB NOT NULL,
    rollout_name TEXT NOT NULL,
    reason TEXT NOT NULL,
    held_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, app, channel, release)
);

-- What rollouts count of their devices' events.
CREATE INDEX events_kind ON events (tenant, kind, at);
