-- Keys by which gateways without a certificate send: each for one device, and for nothing but the addresses of sync.
CREATE TABLE gateway_keys (
    tenant BLOB NOT NULL,
    uid BLOB NOT NULL,
    name TEXT NOT NULL,
    -- SHA-256 of the secret.
    hash BLOB NOT NULL UNIQUE,
    device BLOB NOT NULL,
    lifetime_seconds INTEGER NOT NULL,
    labels TEXT NOT NULL,
    resource_version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    last_used_at INTEGER,
    PRIMARY KEY (tenant, uid),
    UNIQUE (tenant, name),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
