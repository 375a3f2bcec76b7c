//! What this device knows of itself.

use farshore_collect::{HostFacts, Roots};
use farshore_domain::device::Hardware;

/// Reads what the kernel and the system tell.
#[must_use]
pub fn hardware() -> Hardware {
    let facts = HostFacts::read(&Roots::default());
    Hardware {
        hostname: facts.hostname.unwrap_or_default(),
        os: facts.os.to_owned(),
        arch: facts.arch.to_owned(),
        variant: if facts.arch == "arm" { "v7".to_owned() } else { String::new() },
        kernel: facts.kernel.unwrap_or_default(),
        os_name: facts.os_name.unwrap_or_default(),
        model: facts.model.unwrap_or_default(),
        cpus: facts.cpu_count.unwrap_or_default(),
        memory_bytes: facts.memory_total_bytes.unwrap_or_default(),
    }
}
