-- What the running instance of an app is kept apart from; NULL: nobody knows.
ALTER TABLE device_apps ADD COLUMN isolation JSONB;
