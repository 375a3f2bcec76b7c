-- What the points of each hour come to, by stream: made from blocks by a driver, and kept for longer than they are.

CREATE TABLE series_hours (
    tenant BLOB NOT NULL,
    device BLOB NOT NULL,
    -- As in metric_blocks.
    stream TEXT NOT NULL,
    -- Where the hour begins, Unix milliseconds.
    hour_ms INTEGER NOT NULL,
    -- Summaries by series, version 3 of the codec.
    block BLOB NOT NULL,
    PRIMARY KEY (tenant, device, stream, hour_ms),
    FOREIGN KEY (tenant, device) REFERENCES devices (tenant, uid) ON DELETE CASCADE
);
CREATE INDEX series_hours_age ON series_hours (hour_ms);

-- 0: to be put into its hours. 1: it is in there. 2: it can't be, and is read itself as long as it is kept.
ALTER TABLE metric_blocks ADD COLUMN rolled INTEGER NOT NULL DEFAULT 0;
-- The driver's list of work. What was stored before this migration is on it, too.
CREATE INDEX metric_blocks_due ON metric_blocks (to_ms) WHERE rolled = 0;
