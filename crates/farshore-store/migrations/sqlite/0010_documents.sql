-- Documents: JSON that a device and the cloud may both change, what became of it, and what was lost on either side.

-- How far the documents of a device are.
CREATE TABLE document_heads (
    tenant BLOB NOT NULL,
    device BLOB NOT NULL,
    -- Counts the changes of this device's documents; devices name it as their cursor.
    sequence INTEGER NOT NULL,
    -- Deletions up to here may be forgotten.
    forgotten INTEGER NOT NULL,
    -- The hybrid logical clock: not before any edit of this device's documents.
    clock_ms INTEGER NOT NULL,
    clock_count INTEGER NOT NULL,
    -- The rule that the device asks for; JSON.
    wish TEXT,
    -- What the device said the last time.
    cursor INTEGER NOT NULL,
    pending INTEGER NOT NULL,
    pending_since INTEGER,
    synced_at INTEGER,
    PRIMARY KEY (tenant, device),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);

CREATE TABLE documents (
    tenant BLOB NOT NULL,
    device BLOB NOT NULL,
    collection TEXT NOT NULL,
    name TEXT NOT NULL,
    revision INTEGER NOT NULL,
    -- That of its last change.
    sequence INTEGER NOT NULL,
    -- JSON; none: it was deleted.
    value TEXT,
    -- When each leaf was written, and by whom; JSON.
    stamps TEXT NOT NULL,
    author TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    -- The last change of the device that was taken.
    edge_life INTEGER,
    edge_number INTEGER,
    PRIMARY KEY (tenant, device, collection, name),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX documents_sequence ON documents (tenant, device, sequence);
CREATE INDEX documents_deleted ON documents (changed_at) WHERE value IS NULL;

CREATE TABLE document_revisions (
    tenant BLOB NOT NULL,
    device BLOB NOT NULL,
    collection TEXT NOT NULL,
    name TEXT NOT NULL,
    revision INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    value TEXT,
    author TEXT NOT NULL,
    at INTEGER NOT NULL,
    -- edit, sync, merge, resolve, restore
    cause TEXT NOT NULL,
    PRIMARY KEY (tenant, device, collection, name, revision),
    FOREIGN KEY (tenant, device, collection, name) REFERENCES documents (tenant, device, collection, name) ON DELETE CASCADE
);
CREATE INDEX document_revisions_age ON document_revisions (at);

CREATE TABLE document_conflicts (
    tenant BLOB NOT NULL,
    uid BLOB NOT NULL,
    device BLOB NOT NULL,
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
    edge_at INTEGER,
    edge_by TEXT,
    cloud_at INTEGER,
    cloud_by TEXT,
    -- The document's revision after it.
    revision INTEGER NOT NULL,
    at INTEGER NOT NULL,
    -- open: somebody has to choose; settled: it was decided.
    state TEXT NOT NULL,
    settled_at INTEGER,
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
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    name TEXT NOT NULL,
    -- JSON
    rules TEXT NOT NULL,
    -- 1: devices may only read.
    read_only INTEGER NOT NULL,
    resource_version INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    changed_by TEXT NOT NULL,
    PRIMARY KEY (tenant, name)
);
