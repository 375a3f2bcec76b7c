//! What /proc counts where eBPF does not tell.

use crate::file::{KernelFile, Roots};
use crate::source::parse_retransmits;

/// Numbers since the machine started; absent where the kernel does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Processes that the OOM killer took.
    pub oom_kills: Option<u64>,
    /// TCP segments that were sent again, in this process's network namespace.
    pub retransmits: Option<u64>,
}

/// The files.
#[derive(Debug)]
pub struct ProcCounters {
    vmstat: KernelFile,
    snmp: KernelFile,
    buffer: Vec<u8>,
}

impl Default for ProcCounters {
    fn default() -> Self {
        Self::at(&Roots::default())
    }
}

impl ProcCounters {
    /// The machine's own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Those below other roots.
    #[must_use]
    pub fn at(roots: &Roots) -> Self {
        Self {
            vmstat: KernelFile::new(roots, "/proc/vmstat"),
            snmp: KernelFile::new(roots, "/proc/net/snmp"),
            buffer: Vec::new(),
        }
    }

    /// Reads both.
    pub fn read(&mut self) -> Counters {
        Counters {
            oom_kills: self.vmstat.read(&mut self.buffer, "oom_kill", parse_oom_kills).ok(),
            retransmits: self.snmp.read(&mut self.buffer, "TCP counters", parse_retransmits).ok(),
        }
    }
}

fn parse_oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_found_among_what_else_is_counted() {
        assert_eq!(parse_oom_kills("pgfault 1\noom_kill 7\noom_kill_other 9\n"), Some(7));
        assert_eq!(parse_oom_kills("pgfault 1\n"), None);
    }
}
