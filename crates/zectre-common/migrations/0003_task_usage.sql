-- The newest sample of what a task uses; written by the scheduler at a low rate.
ALTER TABLE tasks ADD COLUMN usage_cpu_millis bigint;
ALTER TABLE tasks ADD COLUMN usage_memory_bytes bigint;
ALTER TABLE tasks ADD COLUMN usage_at timestamptz;
