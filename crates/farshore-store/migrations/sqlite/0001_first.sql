-- The first schema. Every tenant's row has a composite key that starts with the tenant, and every reference
-- carries the tenant along, so that a row can't point into another tenant. Times are Unix milliseconds.

CREATE TABLE tenants (
    uid BLOB PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    display_name TEXT NOT NULL DEFAULT '',
    labels TEXT NOT NULL DEFAULT '{}',
    resource_version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL
);

-- One row: raised when a database is restored.
CREATE TABLE epochs (id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER NOT NULL);
INSERT INTO epochs (id, epoch) VALUES (1, 1);

CREATE TABLE users (
    uid BLOB PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    password_hash TEXT,
    created_at INTEGER NOT NULL,
    last_login_at INTEGER
);

CREATE TABLE role_bindings (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    user_uid BLOB NOT NULL REFERENCES users (uid) ON DELETE CASCADE,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    labels TEXT NOT NULL DEFAULT '{}',
    resource_version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, user_uid),
    UNIQUE (tenant, name)
);

-- Sessions, one-time links and throttling know users before a tenant is chosen.
CREATE TABLE sessions (
    hash BLOB PRIMARY KEY,
    user_uid BLOB NOT NULL REFERENCES users (uid) ON DELETE CASCADE,
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER
);
CREATE INDEX sessions_user ON sessions (user_uid);

CREATE TABLE login_links (
    hash BLOB PRIMARY KEY,
    user_uid BLOB NOT NULL REFERENCES users (uid) ON DELETE CASCADE,
    expires_at INTEGER NOT NULL,
    used_at INTEGER
);

CREATE TABLE login_attempts (
    subject TEXT PRIMARY KEY,
    failures INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    blocked_until INTEGER NOT NULL
);

CREATE TABLE api_tokens (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid BLOB NOT NULL,
    name TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    role TEXT NOT NULL,
    lifetime_seconds INTEGER NOT NULL,
    labels TEXT NOT NULL DEFAULT '{}',
    resource_version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    last_used_at INTEGER,
    revoked_at INTEGER,
    PRIMARY KEY (tenant, uid),
    UNIQUE (tenant, name)
);

-- Certificates and wrapped keys of the control plane itself: root, intermediate, online.
CREATE TABLE authorities (
    uid BLOB PRIMARY KEY,
    kind TEXT NOT NULL,
    certificate TEXT NOT NULL,
    wrapped_key BLOB,
    state TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
);

CREATE TABLE claim_tokens (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid BLOB NOT NULL,
    name TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    device_labels TEXT NOT NULL,
    channel TEXT NOT NULL,
    location TEXT NOT NULL,
    lifetime_seconds INTEGER NOT NULL,
    uses INTEGER NOT NULL,
    used INTEGER NOT NULL DEFAULT 0,
    labels TEXT NOT NULL DEFAULT '{}',
    managed_by TEXT NOT NULL,
    resource_version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER,
    PRIMARY KEY (tenant, uid),
    UNIQUE (tenant, name),
    CHECK (used <= uses)
);

CREATE TABLE devices (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid BLOB NOT NULL,
    name TEXT NOT NULL,
    labels TEXT NOT NULL,
    managed_by TEXT NOT NULL,
    resource_version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    location TEXT NOT NULL,
    channel TEXT NOT NULL,
    driver TEXT NOT NULL,
    lifecycle TEXT NOT NULL,
    -- SHA-256 of the device key's SPKI.
    public_key BLOB NOT NULL,
    claim_token BLOB,
    hardware TEXT NOT NULL,
    agent_version TEXT NOT NULL DEFAULT '',
    capabilities TEXT NOT NULL DEFAULT '[]',
    health TEXT NOT NULL DEFAULT 'unknown',
    conformance TEXT NOT NULL DEFAULT 'unknown',
    reasons TEXT NOT NULL DEFAULT '[]',
    accepted_epoch INTEGER NOT NULL DEFAULT 0,
    accepted_generation INTEGER NOT NULL DEFAULT 0,
    reported_at INTEGER,
    -- Presence is kept in memory and flushed as a set.
    last_seen_at INTEGER,
    certificate_expires_at INTEGER,
    revoked_at INTEGER,
    PRIMARY KEY (tenant, uid),
    UNIQUE (tenant, name),
    UNIQUE (tenant, public_key)
);
CREATE INDEX devices_location ON devices (tenant, location);
CREATE INDEX devices_channel ON devices (tenant, channel);
CREATE INDEX devices_public_key ON devices (public_key);

CREATE TABLE device_labels (
    tenant BLOB NOT NULL,
    device BLOB NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (tenant, key, value, device),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX device_labels_device ON device_labels (tenant, device);

-- A key that was revoked can't be claimed again.
CREATE TABLE revoked_keys (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    public_key BLOB NOT NULL,
    device BLOB NOT NULL,
    revoked_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, public_key)
);

CREATE TABLE certificates (
    tenant BLOB NOT NULL,
    serial TEXT NOT NULL,
    device BLOB NOT NULL,
    chain TEXT NOT NULL,
    issued_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, serial),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX certificates_device ON certificates (tenant, device, issued_at);

-- The newest connection wins; `epoch` grows with each.
CREATE TABLE device_sessions (
    tenant BLOB NOT NULL,
    device BLOB NOT NULL,
    replica TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    connected_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, device),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);

-- Objects that are only a specification: App, Placement, Channel, Pin, Config, ClaimRule.
CREATE TABLE objects (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid BLOB NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    labels TEXT NOT NULL,
    managed_by TEXT NOT NULL,
    resource_version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    spec TEXT NOT NULL,
    PRIMARY KEY (tenant, uid),
    UNIQUE (tenant, kind, name)
);

CREATE TABLE artifacts (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, digest)
);

CREATE TABLE uploads (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid BLOB NOT NULL,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, uid)
);

CREATE TABLE trusted_key_sets (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    document BLOB NOT NULL,
    signature BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, version)
);

CREATE TABLE releases (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid BLOB NOT NULL,
    name TEXT NOT NULL,
    labels TEXT NOT NULL,
    managed_by TEXT NOT NULL,
    resource_version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    app TEXT NOT NULL,
    version TEXT NOT NULL,
    manifest BLOB NOT NULL,
    manifest_digest TEXT NOT NULL,
    signature BLOB NOT NULL,
    signed_by TEXT NOT NULL,
    key_name TEXT NOT NULL,
    PRIMARY KEY (tenant, uid),
    UNIQUE (tenant, name),
    UNIQUE (tenant, app, version)
);

CREATE TABLE release_artifacts (
    tenant BLOB NOT NULL,
    release BLOB NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (tenant, release, digest),
    FOREIGN KEY (tenant, release) REFERENCES releases (tenant, uid) ON DELETE CASCADE,
    FOREIGN KEY (tenant, digest) REFERENCES artifacts (tenant, digest)
);

-- For each app of a channel, the release that is current there.
CREATE TABLE channel_pointers (
    tenant BLOB NOT NULL,
    channel TEXT NOT NULL,
    app TEXT NOT NULL,
    release BLOB NOT NULL,
    moved_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, channel, app),
    FOREIGN KEY (tenant, release) REFERENCES releases (tenant, uid)
);

CREATE TABLE rollouts (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid BLOB NOT NULL,
    name TEXT NOT NULL,
    labels TEXT NOT NULL,
    managed_by TEXT NOT NULL,
    resource_version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    app TEXT NOT NULL,
    channel TEXT NOT NULL,
    phase TEXT NOT NULL,
    spec TEXT NOT NULL,
    -- The engine's state: `farshore_domain::rollout::Rollout`, which carries its own version.
    state TEXT NOT NULL,
    PRIMARY KEY (tenant, uid),
    UNIQUE (tenant, name)
);
CREATE INDEX rollouts_phase ON rollouts (phase);

-- What one device should have, as it was signed.
CREATE TABLE desired_states (
    tenant BLOB NOT NULL,
    device BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    body BLOB NOT NULL,
    -- Of the body without epoch, generation and time: says whether a new one is needed.
    content_digest TEXT NOT NULL,
    issued_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, device),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);

CREATE TABLE permits (
    tenant BLOB NOT NULL,
    uid BLOB NOT NULL,
    device BLOB NOT NULL,
    app TEXT NOT NULL,
    release BLOB NOT NULL,
    rollout BLOB,
    issued_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, uid),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX permits_device ON permits (tenant, device, app);

-- What a device reports of each app, and how often somebody resumed it.
CREATE TABLE device_apps (
    tenant BLOB NOT NULL,
    device BLOB NOT NULL,
    app TEXT NOT NULL,
    phase TEXT NOT NULL DEFAULT 'absent',
    health TEXT NOT NULL DEFAULT 'unknown',
    active_release BLOB,
    active_version TEXT NOT NULL DEFAULT '',
    staged_release BLOB,
    previous_release BLOB,
    failed_release BLOB,
    refused_release BLOB,
    permit BLOB,
    committed BOOLEAN NOT NULL DEFAULT FALSE,
    restarts INTEGER NOT NULL DEFAULT 0,
    reasons TEXT NOT NULL DEFAULT '[]',
    resumed_seen INTEGER NOT NULL DEFAULT 0,
    resumed_wanted INTEGER NOT NULL DEFAULT 0,
    reported_at INTEGER,
    PRIMARY KEY (tenant, device, app),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);

CREATE TABLE operations (
    tenant BLOB NOT NULL,
    uid BLOB NOT NULL,
    device BLOB NOT NULL,
    kind TEXT NOT NULL,
    app TEXT NOT NULL,
    arguments TEXT NOT NULL,
    state TEXT NOT NULL,
    message TEXT NOT NULL DEFAULT '',
    output BLOB,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    finished_at INTEGER,
    PRIMARY KEY (tenant, uid),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX operations_open ON operations (tenant, device, state);

-- Written with the change itself, unnumbered; one sequencer numbers committed rows per tenant.
CREATE TABLE events (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid BLOB NOT NULL,
    sequence INTEGER,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject BLOB NOT NULL,
    subject_name TEXT NOT NULL,
    actor TEXT NOT NULL,
    message TEXT NOT NULL,
    payload TEXT NOT NULL,
    PRIMARY KEY (tenant, uid)
);
CREATE UNIQUE INDEX events_sequence ON events (tenant, sequence);
CREATE INDEX events_subject ON events (tenant, subject, sequence);
CREATE INDEX events_unnumbered ON events (at) WHERE sequence IS NULL;

CREATE TABLE event_sequences (
    tenant BLOB PRIMARY KEY REFERENCES tenants (uid) ON DELETE CASCADE,
    last INTEGER NOT NULL
);

-- The last stored batch of each stream of a device: whatever is sent twice takes effect once.
CREATE TABLE stream_marks (
    tenant BLOB NOT NULL,
    device BLOB NOT NULL,
    stream TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (tenant, device, stream),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);

-- Measurements: compressed blocks, never a row per sample.
CREATE TABLE metric_blocks (
    tenant BLOB NOT NULL,
    device BLOB NOT NULL,
    stream TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    from_ms INTEGER NOT NULL,
    to_ms INTEGER NOT NULL,
    samples INTEGER NOT NULL,
    block BLOB NOT NULL,
    PRIMARY KEY (tenant, device, stream, sequence),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX metric_blocks_time ON metric_blocks (tenant, device, stream, to_ms);
CREATE INDEX metric_blocks_age ON metric_blocks (to_ms);

CREATE TABLE metric_latest (
    tenant BLOB NOT NULL,
    device BLOB NOT NULL,
    stream TEXT NOT NULL,
    at INTEGER NOT NULL,
    latest TEXT NOT NULL,
    PRIMARY KEY (tenant, device, stream),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);

CREATE TABLE idempotency_keys (
    tenant BLOB NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    key TEXT NOT NULL,
    request_digest TEXT NOT NULL,
    status INTEGER NOT NULL,
    body BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
);

-- Held by drivers; `epoch` is the fencing token checked in each of their writes.
CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
);
