-- Documents: JSON that a device and the cloud may both change, what became of it, and what was lost on either side.

-- How far the documents of a device are.
CREATE TABLE document_heads (
    tenant UUID NOT NULL,
    device UUID NOT NULL,
    -- Counts the changes of this device's documents; devices name it as their cursor.
    sequence BIGINT NOT NULL,
    -- Deletions up to here may be forgotten.
    forgotten BIGINT NOT NULL,
    -- The hybrid logical clock: not before any edit of this device's documents.
    clock_ms BIGINT NOT NULL,
    clock_count BIGINT NOT NULL,
    -- The rule that the device asks for; JSON.
    wish TEXT,
    -- What the device said the last time.
    cursor BIGINT NOT NULL,
    pending BIGINT NOT NULL,
    pending_since BIGINT,
    synced_at BIGINT,
    PRIMARY KEY (tenant, device),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);

CREATE TABLE documents (
    tenant UUID NOT NULL,
    device UUID NOT NULL,
    collection TEXT NOT NULL,
    name TEXT NOT NULL,
    revision BIGINT NOT NULL,
    -- That of its last change.
    sequence BIGINT NOT NULL,
    -- JSON; none: it was deleted.
    value TEXT,
    -- When each leaf was written, and by whom; JSON.
    stamps TEXT NOT NULL,
    author TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    -- The last change of the device that was taken.
    edge_life BIGINT,
    edge_number BIGINT,
    PRIMARY KEY (tenant, device, collection, name),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX documents_sequence ON documents (tenant, device, sequence);
CREATE INDEX documents_deleted ON documents (changed_at) WHERE value IS NULL;

CREATE TABLE document_revisions (
    tenant UUID NOT NULL,
    device UUID NOT NULL,
    collection TEXT NOT NULL,
    name TEXT NOT NULL,
    revision BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    value TEXT,
    author TEXT NOT NULL,
    at BIGINT NOT NULL,
    -- edit, sync, merge, resolve, restore
    cause TEXT NOT NULL,
    PRIMARY KEY (tenant, device, collection, name, revision),
    FOREIGN KEY (tenant, device, collection, name) REFERENCES documents (tenant, device, collection, name) ON DELETE CASCADE
);
CREATE INDEX document_revisions_age ON document_revisions (at);

CREATE TABLE document_conflicts (
    tenant UUID NOT NULL,
    uid UUID NOT NULL,
    device UUID NOT NULL,
    collection TEXT NOT NULL,
    name TEXT NOT NULL,
    path TEXT NOT NULL,
    -- The rule that decided, and whose value stayed: edge, cloud, resolver, open.
    rule TEXT NOT NULL,
    winner TEXT NOT NULL,
    note TEXT,
    -- JSON of each side; none: nothing was there.
    base TEXT,
    edge TEXT,
    cloud TEXT,
    edge_at BIGINT,
    edge_by TEXT,
    cloud_at BIGINT,
    cloud_by TEXT,
    -- The document's revision after it.
    revision BIGINT NOT NULL,
    at BIGINT NOT NULL,
    -- open: somebody has to choose; settled: it was decided.
    state TEXT NOT NULL,
    settled_at BIGINT,
    settled_by TEXT,
    -- What somebody chose later: edge, cloud, base, value.
    chosen TEXT,
    PRIMARY KEY (tenant, uid),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX document_conflicts_device ON document_conflicts (tenant, device, at);
CREATE INDEX document_conflicts_age ON document_conflicts (state, at);

-- What decides conflicts, for the collections of all devices.
CREATE TABLE document_collections (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    name TEXT NOT NULL,
    -- JSON
    rules TEXT NOT NULL,
    -- 1: devices may only read.
    read_only BIGINT NOT NULL,
    resource_version BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    changed_by TEXT NOT NULL,
    PRIMARY KEY (tenant, name)
);

-- As in 0002, for the tables of this migration.
DO $$
DECLARE t TEXT;
BEGIN
    FOREACH t IN ARRAY ARRAY['document_heads', 'documents', 'document_revisions', 'document_conflicts', 'document_collections'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format(
            'CREATE POLICY tenant_only ON %I USING (current_setting(''farshore.tenant'', TRUE) = ''*''
             OR tenant = nullif(nullif(current_setting(''farshore.tenant'', TRUE), ''''), ''*'')::uuid)', t);
    END LOOP;
END $$;
