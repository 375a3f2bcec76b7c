-- Who tells which signal of the device's kernel: eBPF, netlink, /proc or nobody, and why.
ALTER TABLE devices ADD COLUMN senses JSONB NOT NULL DEFAULT '{}';
