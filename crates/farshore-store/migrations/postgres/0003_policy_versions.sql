-- Every version of every policy, the current one among them.
CREATE TABLE policy_versions (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    policy UUID NOT NULL,
    version BIGINT NOT NULL,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    spec JSONB NOT NULL,
    PRIMARY KEY (tenant, policy, version),
    FOREIGN KEY (tenant, policy) REFERENCES objects (tenant, uid) ON DELETE CASCADE
);

-- As in 0002, for the table of this migration.
ALTER TABLE policy_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE policy_versions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON policy_versions USING (current_setting('farshore.tenant', TRUE) = '*'
    OR tenant = nullif(nullif(current_setting('farshore.tenant', TRUE), ''), '*')::uuid);
