-- The second lock: even a statement that forgets its tenant sees only the tenant of its transaction.
-- `farshore.tenant` is set by `SET LOCAL` in each transaction; `*` is set only by drivers.
DO $$
DECLARE t TEXT;
BEGIN
    FOR t IN
        SELECT c.relname FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant' AND NOT a.attisdropped
        WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace AND c.relname <> 'sessions'
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format(
            'CREATE POLICY tenant_only ON %I USING (current_setting(''farshore.tenant'', TRUE) = ''*''
             OR tenant = nullif(nullif(current_setting(''farshore.tenant'', TRUE), ''''), ''*'')::uuid)', t);
    END LOOP;
END $$;
