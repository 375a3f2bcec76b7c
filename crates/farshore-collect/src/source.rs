//! Parsers: the text of one kernel file in, numbers out. Pure, and total: what does not parse is `None`.

mod block_devices;
mod hardware;
mod interfaces;
mod memory;
mod pressure;
mod processor;
mod tcp;

pub(crate) use block_devices::{DiskCounters, io_latency_ms, parse_diskstats};
pub(crate) use hardware::Hardware;
pub(crate) use interfaces::{Interfaces, NetCounters, net_rates, parse_net_dev};
pub(crate) use memory::{Memory, parse_meminfo};
pub(crate) use pressure::{RawPressure, parse_pressure, pressure_between};
pub(crate) use processor::{CpuTimes, busy_ratio, parse_loadavg, parse_stat, parse_uptime};
pub(crate) use tcp::{parse_retransmits, retransmits_per_second};
