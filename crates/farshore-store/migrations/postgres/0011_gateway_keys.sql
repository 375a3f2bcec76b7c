-- Keys by which gateways without a certificate send: each for one device, and for nothing but the addresses of sync.
CREATE TABLE gateway_keys (
    tenant UUID NOT NULL,
    uid UUID NOT NULL,
    name TEXT NOT NULL,
    -- SHA-256 of the secret.
    hash BYTEA NOT NULL UNIQUE,
    device UUID NOT NULL,
    lifetime_seconds BIGINT NOT NULL,
    labels JSONB NOT NULL,
    resource_version BIGINT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    last_used_at BIGINT,
    PRIMARY KEY (tenant, uid),
    UNIQUE (tenant, name),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);

-- As in 0002, for the table of this migration.
ALTER TABLE gateway_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON gateway_keys USING (current_setting('farshore.tenant', TRUE) = '*'
    OR tenant = nullif(nullif(current_setting('farshore.tenant', TRUE), ''), '*')::uuid);
