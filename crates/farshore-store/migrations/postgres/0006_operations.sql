-- Operations with every state, its deadline and its result; requests to many devices; budgets for those that disturb.

-- Why somebody asked for it.
ALTER TABLE operations ADD COLUMN reason TEXT NOT NULL DEFAULT '';
-- Requests that were made together, and how many they are.
ALTER TABLE operations ADD COLUMN request UUID;
ALTER TABLE operations ADD COLUMN request_size BIGINT NOT NULL DEFAULT 1;
ALTER TABLE operations ADD COLUMN budget JSONB NOT NULL DEFAULT '{}';
-- Seconds that the device may take once it has begun.
ALTER TABLE operations ADD COLUMN time_limit BIGINT NOT NULL DEFAULT 120;
-- When it became its turn; until then `waits` says for what.
ALTER TABLE operations ADD COLUMN admitted_at BIGINT;
ALTER TABLE operations ADD COLUMN waits TEXT NOT NULL DEFAULT '';
ALTER TABLE operations ADD COLUMN delivered_at BIGINT;
ALTER TABLE operations ADD COLUMN started_at BIGINT;
-- When the present state ends by itself; expires_at where there is none.
ALTER TABLE operations ADD COLUMN deadline_at BIGINT;
ALTER TABLE operations ADD COLUMN cancel_requested_at BIGINT;
ALTER TABLE operations ADD COLUMN cancelled_by TEXT NOT NULL DEFAULT '';
ALTER TABLE operations ADD COLUMN exit_code BIGINT;
ALTER TABLE operations ADD COLUMN output_total BIGINT NOT NULL DEFAULT 0;
UPDATE operations SET admitted_at = created_at;

CREATE INDEX operations_unfinished ON operations (tenant, device) WHERE finished_at IS NULL;
CREATE INDEX operations_finished ON operations (finished_at) WHERE finished_at IS NOT NULL;
