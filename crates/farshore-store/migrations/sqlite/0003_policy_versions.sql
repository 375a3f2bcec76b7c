-- Every version of every policy, the current one among them.
CREATE TABLE policy_versions (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    policy BLOB NOT NULL,
    version INTEGER NOT NULL,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    spec TEXT NOT NULL,
    PRIMARY KEY (tenant, policy, version),
    FOREIGN KEY (tenant, policy) REFERENCES objects (tenant, uid) ON DELETE CASCADE
);
