-- The first schema. Every tenant's row has a composite key that starts with the tenant, and every reference
-- carries the tenant along, so that a row can't point into another tenant. Times are Unix milliseconds.

CREATE TABLE tenants (
    uid UUID PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    display_name TEXT NOT NULL DEFAULT '',
    labels JSONB NOT NULL DEFAULT '{}',
    resource_version BIGINT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL
);

-- One row: raised when a database is restored.
CREATE TABLE epochs (id INTEGER PRIMARY KEY CHECK (id = 1), epoch BIGINT NOT NULL);
INSERT INTO epochs (id, epoch) VALUES (1, 1);

CREATE TABLE users (
    uid UUID PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    password_hash TEXT,
    created_at BIGINT NOT NULL,
    last_login_at BIGINT
);

CREATE TABLE role_bindings (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    user_uid UUID NOT NULL REFERENCES users (uid) ON DELETE CASCADE,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    labels JSONB NOT NULL DEFAULT '{}',
    resource_version BIGINT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_uid),
    UNIQUE (tenant, name)
);

-- Sessions, one-time links and throttling know users before a tenant is chosen.
CREATE TABLE sessions (
    hash BYTEA PRIMARY KEY,
    user_uid UUID NOT NULL REFERENCES users (uid) ON DELETE CASCADE,
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE INDEX sessions_user ON sessions (user_uid);

CREATE TABLE login_links (
    hash BYTEA PRIMARY KEY,
    user_uid UUID NOT NULL REFERENCES users (uid) ON DELETE CASCADE,
    expires_at BIGINT NOT NULL,
    used_at BIGINT
);

CREATE TABLE login_attempts (
    subject TEXT PRIMARY KEY,
    failures BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    blocked_until BIGINT NOT NULL
);

CREATE TABLE api_tokens (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid UUID NOT NULL,
    name TEXT NOT NULL,
    hash BYTEA NOT NULL UNIQUE,
    role TEXT NOT NULL,
    lifetime_seconds BIGINT NOT NULL,
    labels JSONB NOT NULL DEFAULT '{}',
    resource_version BIGINT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    last_used_at BIGINT,
    revoked_at BIGINT,
    PRIMARY KEY (tenant, uid),
    UNIQUE (tenant, name)
);

-- Certificates and wrapped keys of the control plane itself: root, intermediate, online.
CREATE TABLE authorities (
    uid UUID PRIMARY KEY,
    kind TEXT NOT NULL,
    certificate TEXT NOT NULL,
    wrapped_key BYTEA,
    state TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE TABLE claim_tokens (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid UUID NOT NULL,
    name TEXT NOT NULL,
    hash BYTEA NOT NULL UNIQUE,
    device_labels JSONB NOT NULL,
    channel TEXT NOT NULL,
    location TEXT NOT NULL,
    lifetime_seconds BIGINT NOT NULL,
    uses BIGINT NOT NULL,
    used BIGINT NOT NULL DEFAULT 0,
    labels JSONB NOT NULL DEFAULT '{}',
    managed_by TEXT NOT NULL,
    resource_version BIGINT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT,
    PRIMARY KEY (tenant, uid),
    UNIQUE (tenant, name),
    CHECK (used <= uses)
);

CREATE TABLE devices (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid UUID NOT NULL,
    name TEXT NOT NULL,
    labels JSONB NOT NULL,
    managed_by TEXT NOT NULL,
    resource_version BIGINT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL,
    location TEXT NOT NULL,
    channel TEXT NOT NULL,
    driver TEXT NOT NULL,
    lifecycle TEXT NOT NULL,
    -- SHA-256 of the device key's SPKI.
    public_key BYTEA NOT NULL,
    claim_token UUID,
    hardware JSONB NOT NULL,
    agent_version TEXT NOT NULL DEFAULT '',
    capabilities JSONB NOT NULL DEFAULT '[]',
    health TEXT NOT NULL DEFAULT 'unknown',
    conformance TEXT NOT NULL DEFAULT 'unknown',
    reasons JSONB NOT NULL DEFAULT '[]',
    accepted_epoch BIGINT NOT NULL DEFAULT 0,
    accepted_generation BIGINT NOT NULL DEFAULT 0,
    reported_at BIGINT,
    -- Presence is kept in memory and flushed as a set.
    last_seen_at BIGINT,
    certificate_expires_at BIGINT,
    revoked_at BIGINT,
    PRIMARY KEY (tenant, uid),
    UNIQUE (tenant, name),
    UNIQUE (tenant, public_key)
);
CREATE INDEX devices_location ON devices (tenant, location);
CREATE INDEX devices_channel ON devices (tenant, channel);
CREATE INDEX devices_public_key ON devices (public_key);

CREATE TABLE device_labels (
    tenant UUID NOT NULL,
    device UUID NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (tenant, key, value, device),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX device_labels_device ON device_labels (tenant, device);

-- A key that was revoked can't be claimed again.
CREATE TABLE revoked_keys (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    public_key BYTEA NOT NULL,
    device UUID NOT NULL,
    revoked_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, public_key)
);

CREATE TABLE certificates (
    tenant UUID NOT NULL,
    serial TEXT NOT NULL,
    device UUID NOT NULL,
    chain TEXT NOT NULL,
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, serial),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX certificates_device ON certificates (tenant, device, issued_at);

-- The newest connection wins; `epoch` grows with each.
CREATE TABLE device_sessions (
    tenant UUID NOT NULL,
    device UUID NOT NULL,
    replica TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    connected_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, device),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);

-- Objects that are only a specification: App, Placement, Channel, Pin, Config, ClaimRule.
CREATE TABLE objects (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid UUID NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    labels JSONB NOT NULL,
    managed_by TEXT NOT NULL,
    resource_version BIGINT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL,
    spec JSONB NOT NULL,
    PRIMARY KEY (tenant, uid),
    UNIQUE (tenant, kind, name)
);

CREATE TABLE artifacts (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, digest)
);

CREATE TABLE uploads (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid UUID NOT NULL,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, uid)
);

CREATE TABLE trusted_key_sets (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    version BIGINT NOT NULL,
    document BYTEA NOT NULL,
    signature BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, version)
);

CREATE TABLE releases (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid UUID NOT NULL,
    name TEXT NOT NULL,
    labels JSONB NOT NULL,
    managed_by TEXT NOT NULL,
    resource_version BIGINT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL,
    app TEXT NOT NULL,
    version TEXT NOT NULL,
    manifest BYTEA NOT NULL,
    manifest_digest TEXT NOT NULL,
    signature BYTEA NOT NULL,
    signed_by TEXT NOT NULL,
    key_name TEXT NOT NULL,
    PRIMARY KEY (tenant, uid),
    UNIQUE (tenant, name),
    UNIQUE (tenant, app, version)
);

CREATE TABLE release_artifacts (
    tenant UUID NOT NULL,
    release UUID NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (tenant, release, digest),
    FOREIGN KEY (tenant, release) REFERENCES releases (tenant, uid) ON DELETE CASCADE,
    FOREIGN KEY (tenant, digest) REFERENCES artifacts (tenant, digest)
);

-- For each app of a channel, the release that is current there.
CREATE TABLE channel_pointers (
    tenant UUID NOT NULL,
    channel TEXT NOT NULL,
    app TEXT NOT NULL,
    release UUID NOT NULL,
    moved_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, channel, app),
    FOREIGN KEY (tenant, release) REFERENCES releases (tenant, uid)
);

CREATE TABLE rollouts (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid UUID NOT NULL,
    name TEXT NOT NULL,
    labels JSONB NOT NULL,
    managed_by TEXT NOT NULL,
    resource_version BIGINT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL,
    app TEXT NOT NULL,
    channel TEXT NOT NULL,
    phase TEXT NOT NULL,
    spec JSONB NOT NULL,
    -- The engine's state: `farshore_domain::rollout::Rollout`, which carries its own version.
    state JSONB NOT NULL,
    PRIMARY KEY (tenant, uid),
    UNIQUE (tenant, name)
);
CREATE INDEX rollouts_phase ON rollouts (phase);

-- What one device should have, as it was signed.
CREATE TABLE desired_states (
    tenant UUID NOT NULL,
    device UUID NOT NULL,
    epoch BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    body BYTEA NOT NULL,
    -- Of the body without epoch, generation and time: says whether a new one is needed.
    content_digest TEXT NOT NULL,
    issued_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, device),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);

CREATE TABLE permits (
    tenant UUID NOT NULL,
    uid UUID NOT NULL,
    device UUID NOT NULL,
    app TEXT NOT NULL,
    release UUID NOT NULL,
    rollout UUID,
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, uid),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX permits_device ON permits (tenant, device, app);

-- What a device reports of each app, and how often somebody resumed it.
CREATE TABLE device_apps (
    tenant UUID NOT NULL,
    device UUID NOT NULL,
    app TEXT NOT NULL,
    phase TEXT NOT NULL DEFAULT 'absent',
    health TEXT NOT NULL DEFAULT 'unknown',
    active_release UUID,
    active_version TEXT NOT NULL DEFAULT '',
    staged_release UUID,
    previous_release UUID,
    failed_release UUID,
    refused_release UUID,
    permit UUID,
    committed BOOLEAN NOT NULL DEFAULT FALSE,
    restarts BIGINT NOT NULL DEFAULT 0,
    reasons JSONB NOT NULL DEFAULT '[]',
    resumed_seen BIGINT NOT NULL DEFAULT 0,
    resumed_wanted BIGINT NOT NULL DEFAULT 0,
    reported_at BIGINT,
    PRIMARY KEY (tenant, device, app),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);

CREATE TABLE operations (
    tenant UUID NOT NULL,
    uid UUID NOT NULL,
    device UUID NOT NULL,
    kind TEXT NOT NULL,
    app TEXT NOT NULL,
    arguments JSONB NOT NULL,
    state TEXT NOT NULL,
    message TEXT NOT NULL DEFAULT '',
    output BYTEA,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    finished_at BIGINT,
    PRIMARY KEY (tenant, uid),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX operations_open ON operations (tenant, device, state);

-- Written with the change itself, unnumbered; one sequencer numbers committed rows per tenant.
CREATE TABLE events (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    uid UUID NOT NULL,
    sequence BIGINT,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject UUID NOT NULL,
    subject_name TEXT NOT NULL,
    actor TEXT NOT NULL,
    message TEXT NOT NULL,
    payload JSONB NOT NULL,
    PRIMARY KEY (tenant, uid)
);
CREATE UNIQUE INDEX events_sequence ON events (tenant, sequence);
CREATE INDEX events_subject ON events (tenant, subject, sequence);
CREATE INDEX events_unnumbered ON events (at) WHERE sequence IS NULL;

CREATE TABLE event_sequences (
    tenant UUID PRIMARY KEY REFERENCES tenants (uid) ON DELETE CASCADE,
    last BIGINT NOT NULL
);

-- The last stored batch of each stream of a device: whatever is sent twice takes effect once.
CREATE TABLE stream_marks (
    tenant UUID NOT NULL,
    device UUID NOT NULL,
    stream TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    PRIMARY KEY (tenant, device, stream),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);

-- Measurements: compressed blocks, never a row per sample.
CREATE TABLE metric_blocks (
    tenant UUID NOT NULL,
    device UUID NOT NULL,
    stream TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    from_ms BIGINT NOT NULL,
    to_ms BIGINT NOT NULL,
    samples BIGINT NOT NULL,
    block BYTEA NOT NULL,
    PRIMARY KEY (tenant, device, stream, sequence),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX metric_blocks_time ON metric_blocks (tenant, device, stream, to_ms);
CREATE INDEX metric_blocks_age ON metric_blocks (to_ms);

CREATE TABLE metric_latest (
    tenant UUID NOT NULL,
    device UUID NOT NULL,
    stream TEXT NOT NULL,
    at BIGINT NOT NULL,
    latest JSONB NOT NULL,
    PRIMARY KEY (tenant, device, stream),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);

CREATE TABLE idempotency_keys (
    tenant UUID NOT NULL REFERENCES tenants (uid) ON DELETE CASCADE,
    key TEXT NOT NULL,
    request_digest TEXT NOT NULL,
    status BIGINT NOT NULL,
    body BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, key)
);

-- Held by drivers; `epoch` is the fencing token checked in each of their writes.
CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
