//! The names of what is measured: one enum, one table.

use std::fmt;

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// A share, 0 to 1.
    Ratio,
    /// Bytes.
    Bytes,
    /// Bytes per second.
    BytesPerSecond,
    /// Events per second.
    PerSecond,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// Degrees Celsius.
    Celsius,
    /// A number of runnable tasks, without a unit.
    Tasks,
    /// A number that grows.
    Count,
}

impl Unit {
    /// The stable name, as it stands in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ratio => "ratio",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "bytes_per_second",
            Self::PerSecond => "per_second",
            Self::Milliseconds => "milliseconds",
            Self::Seconds => "seconds",
            Self::Celsius => "celsius",
            Self::Tasks => "tasks",
            Self::Count => "count",
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! metrics {
    ($($variant:ident $name:literal $unit:ident $decimals:literal $doc:literal;)*) => {
        /// Something that is measured on a host. The names are stable: they are stored and sent.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Metric {
            $(#[doc = $doc] $variant,)*
        }

        impl Metric {
            /// Every metric, in the order of its declaration.
            pub const ALL: &[Metric] = &[$(Metric::$variant),*];

            /// The stable snake-case name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Metric::$variant => $name,)* }
            }

            /// What its values count.
            #[must_use]
            pub fn unit(self) -> Unit {
                match self { $(Metric::$variant => Unit::$unit,)* }
            }

            /// One sentence that says what it is.
            #[must_use]
            pub fn doc(self) -> &'static str {
                match self { $(Metric::$variant => $doc,)* }
            }

            /// Digits after the point to which values are rounded.
            #[must_use]
            pub fn decimals(self) -> u32 {
                match self { $(Metric::$variant => $decimals,)* }
            }

            /// The metric with this name; `None` for a name of another version.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Metric::$variant),)* _ => None }
            }
        }
    };
}

metrics! {
    Cpu "cpu" Ratio 4 "Share of all processors' time that was busy since the sample before.";
    Load1 "load1" Tasks 2 "Tasks running or waiting, averaged over 1 minute.";
    Load5 "load5" Tasks 2 "Tasks running or waiting, averaged over 5 minutes.";
    Load15 "load15" Tasks 2 "Tasks running or waiting, averaged over 15 minutes.";
    MemUsed "mem_used" Bytes 0 "Memory in use: total less available.";
    MemTotal "mem_total" Bytes 0 "Memory of the machine that the kernel can use.";
    MemAvailable "mem_available" Bytes 0 "Memory that new work could have without swapping.";
    SwapUsed "swap_used" Bytes 0 "Swap space in use.";
    DiskUsed "disk_used" Bytes 0 "Space in use on the filesystem of the first watched path.";
    DiskTotal "disk_total" Bytes 0 "Size of the filesystem of the first watched path.";
    NetRx "net_rx" BytesPerSecond 0 "Bytes received on network interfaces other than loopback and stacked ones.";
    NetTx "net_tx" BytesPerSecond 0 "Bytes sent on network interfaces other than loopback and stacked ones.";
    PsiCpu "psi_cpu" Ratio 4 "Share of time in which some task waited for a processor.";
    PsiMem "psi_mem" Ratio 4 "Share of time in which some task waited for memory.";
    PsiMemFull "psi_mem_full" Ratio 4 "Share of time in which all tasks waited for memory.";
    PsiIo "psi_io" Ratio 4 "Share of time in which some task waited for a disk.";
    PsiIoFull "psi_io_full" Ratio 4 "Share of time in which all tasks waited for a disk.";
    IoLatency "io_latency" Milliseconds 3 "Mean time of a disk request that was completed since the sample before; absent where none was.";
    NetRetx "net_retx" PerSecond 2 "TCP segments sent again.";
    Uptime "uptime" Seconds 0 "Time since the machine started.";
    Temperature "temperature" Celsius 1 "Temperature of the processor, or of the hottest zone where none is the processor's.";
    IoLatencyP99 "io_latency_p99" Milliseconds 3 "Time in which 99 of 100 disk requests were completed, to a power of two; needs eBPF.";
    ProcessExits "process_exits" PerSecond 2 "Processes that ended.";
    OomKills "oom_kills" Count 0 "Processes that the kernel has killed for want of memory since the machine started.";
    DiskWear "disk_wear" Ratio 2 "Share of its rated life that the most worn disk has used up, where it tells.";
    Gpu "gpu" Ratio 4 "Share of time in which the graphics processor was busy.";
}

impl Metric {
    /// Number of metrics.
    pub const COUNT: usize = Self::ALL.len();

    /// The value at the precision in which it is stored; `None` for what is no number.
    pub(crate) fn round(self, value: f64) -> Option<f64> {
        let power = 10f64.powi(i32::try_from(self.decimals()).ok()?);
        // Adding zero turns -0.0 into 0.0.
        let rounded = (value * power).round() / power + 0.0;
        rounded.is_finite().then_some(rounded)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_lead_back() {
        let names: Vec<_> = Metric::ALL.iter().map(|metric| metric.name()).collect();
        assert_eq!(
            names.join(" "),
            "cpu load1 load5 load15 mem_used mem_total mem_available swap_used disk_used disk_total net_rx net_tx \
             psi_cpu psi_mem psi_mem_full psi_io psi_io_full io_latency net_retx uptime temperature io_latency_p99 \
             process_exits oom_kills disk_wear gpu"
        );
        for (index, metric) in Metric::ALL.iter().enumerate() {
            assert_eq!(Metric::from_name(metric.name()), Some(*metric));
            assert_eq!(*metric as usize, index);
            assert!(metric.doc().ends_with('.'));
        }
        assert_eq!(Metric::from_name("of_another_version"), None);
    }

    #[test]
    fn rounding_keeps_only_what_is_stored() {
        assert_eq!(Metric::Cpu.round(1.0 / 3.0), Some(0.3333));
        assert_eq!(Metric::Cpu.round(-1e-9).map(f64::to_bits), Some(0.0f64.to_bits()));
        assert_eq!(Metric::Cpu.round(f64::NAN), None);
        assert_eq!(Metric::NetRx.round(f64::INFINITY), None);
    }
}
