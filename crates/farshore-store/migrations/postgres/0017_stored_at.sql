-- What came late is kept for as long as anything else, from when it came.

-- When a block of a gateway was stored, Unix milliseconds. 0: not from a gateway, or from before this migration.
ALTER TABLE metric_blocks ADD COLUMN stored_at BIGINT NOT NULL DEFAULT 0;
-- Old blocks that are kept because they came late are passed over in the index.
DROP INDEX metric_blocks_age;
CREATE INDEX metric_blocks_age ON metric_blocks (to_ms, stored_at);
