//! Reads every source once and makes a sample of it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::capability::{Availability, Capability};
use crate::file::{KernelFile, ReadError, Roots, read_into};
use crate::kernel::{Counts, Kind, Latency, ProcCounters};
use crate::metric::Metric;
use crate::previous::Previous;
use crate::sample::{DiskUsage, HostSample, Pressure};
use crate::source::{
    CpuTimes, DiskCounters, Hardware, Interfaces, Memory, NetCounters, RawPressure, busy_ratio,
    io_latency_ms, net_rates, parse_diskstats, parse_loadavg, parse_meminfo, parse_net_dev, parse_pressure,
    parse_retransmits, parse_stat, parse_uptime, pressure_between, retransmits_per_second,
};

/// More thermal zones than this are not looked at.
const MOST_ZONES: usize = 64;

/// What to collect from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectorConfig {
    /// Where /proc and /sys are.
    pub roots: Roots,
    /// Paths whose filesystems are watched, on local filesystems (a dead network mount would block). `disk_used`
    /// and `disk_total` are those of the first.
    pub disk_paths: Vec<PathBuf>,
}

impl CollectorConfig {
    /// The machine itself, watching `/` and the filesystem of the given folder.
    pub fn with_state_folder(folder: impl Into<PathBuf>) -> Self {
        Self { disk_paths: vec![PathBuf::from("/"), folder.into()], ..Self::default() }
    }
}

impl Default for CollectorConfig {
    /// The machine itself, watching `/`.
    fn default() -> Self {
        Self { roots: Roots::default(), disk_paths: vec![PathBuf::from("/")] }
    }
}

/// Samples one host. Keeps the counters of the reading before; one collector for one rhythm.
#[derive(Debug)]
pub struct Collector {
    sources: Sources,
    before: Before,
    told: Option<Counts>,
}

/// The files, and a buffer for all of them.
#[derive(Debug)]
struct Sources {
    roots: Roots,
    disk_paths: Vec<PathBuf>,
    stat: KernelFile,
    loadavg: KernelFile,
    meminfo: KernelFile,
    net_dev: KernelFile,
    snmp: KernelFile,
    diskstats: KernelFile,
    uptime: KernelFile,
    psi_cpu: KernelFile,
    psi_memory: KernelFile,
    psi_io: KernelFile,
    zones: Vec<PathBuf>,
    interfaces: Interfaces,
    hardware: Hardware,
    counters: ProcCounters,
    buffer: Vec<u8>,
}

#[derive(Debug, Default)]
struct Before {
    cpu: Previous<CpuTimes>,
    net: Previous<Vec<NetCounters>>,
    retransmits: Previous<u64>,
    disks: Previous<Vec<DiskCounters>>,
    psi_cpu: Previous<RawPressure>,
    psi_memory: Previous<RawPressure>,
    psi_io: Previous<RawPressure>,
    exits: Previous<u64>,
    latency: Previous<Latency>,
}

impl Collector {
    /// A collector without counters yet: its first sample has no rates.
    #[must_use]
    pub fn new(config: CollectorConfig) -> Self {
        let CollectorConfig { roots, disk_paths } = config;
        let file = |name| KernelFile::new(&roots, name);
        let sources = Sources {
            stat: file("/proc/stat"),
            loadavg: file("/proc/loadavg"),
            meminfo: file("/proc/meminfo"),
            net_dev: file("/proc/net/dev"),
            snmp: file("/proc/net/snmp"),
            diskstats: file("/proc/diskstats"),
            uptime: file("/proc/uptime"),
            psi_cpu: file("/proc/pressure/cpu"),
            psi_memory: file("/proc/pressure/memory"),
            psi_io: file("/proc/pressure/io"),
            zones: thermal_zones(&roots),
            interfaces: Interfaces::default(),
            hardware: Hardware::find(&roots),
            counters: ProcCounters::at(&roots),
            buffer: Vec::with_capacity(16 * 1024),
            roots,
            disk_paths,
        };
        Self { sources, before: Before::default(), told: None }
    }

    /// Takes what the kernel has counted until now, for the next sample; `None` where nobody tells.
    pub fn hear(&mut self, counts: Option<Counts>) {
        self.told = counts;
    }

    /// Reads everything once. `at_ms` (Unix milliseconds) stamps the sample; rates are taken over
    /// `monotonic_ms`, whose origin does not matter.
    ///
    /// Never fails: what cannot be read is absent, and [`capabilities`](Self::capabilities) says why.
    pub fn sample(&mut self, at_ms: i64, monotonic_ms: i64) -> HostSample {
        let Self { sources, before, told } = self;
        let mut sample = HostSample::new(at_ms);

        let times = sources.cpu_times().ok();
        sample.cpu_count = times.map(|times| times.online);
        let cpu = rate(&mut before.cpu, monotonic_ms, times, |before, now, _| busy_ratio(before, now));
        sample.set(Metric::Cpu, cpu);

        let load = sources.load().ok();
        sample.set(Metric::Load1, load.map(|load| load[0]));
        sample.set(Metric::Load5, load.map(|load| load[1]));
        sample.set(Metric::Load15, load.map(|load| load[2]));

        let memory = sources.memory().ok();
        let bytes = |bytes: u64| bytes as f64;
        sample.set(Metric::MemTotal, memory.map(|memory| bytes(memory.total)));
        sample.set(Metric::MemAvailable, memory.map(|memory| bytes(memory.available)));
        sample.set(Metric::MemUsed, memory.map(|memory| bytes(memory.total - memory.available)));
        sample.set(Metric::SwapUsed, memory.and_then(|memory| memory.swap_used).map(bytes));

        sample.disks = sources.disk_usage();
        let first = sources.disk_paths.first();
        let disk = sample.disks.first().filter(|disk| Some(&disk.path) == first);
        let (used, total) = (disk.map(|disk| disk.used_bytes), disk.map(|disk| disk.total_bytes));
        sample.set(Metric::DiskUsed, used.map(bytes));
        sample.set(Metric::DiskTotal, total.map(bytes));

        let interfaces = sources.net_counters().ok();
        let net = rate(&mut before.net, monotonic_ms, interfaces, |before, now, seconds| {
            net_rates(before, now, seconds)
        });
        sample.set(Metric::NetRx, net.map(|(rx, _)| rx));
        sample.set(Metric::NetTx, net.map(|(_, tx)| tx));

        let segments = sources.retransmits().ok();
        let retransmits = rate(&mut before.retransmits, monotonic_ms, segments, |before, now, seconds| {
            retransmits_per_second(*before, *now, seconds)
        });
        sample.set(Metric::NetRetx, retransmits);

        let disks = sources.disk_counters().ok();
        let latency =
            rate(&mut before.disks, monotonic_ms, disks, |before, now, _| io_latency_ms(before, now));
        // The kernel's own measurement of each request is better than the mean of what a disk adds up.
        let measured = told.as_ref().and_then(|told| told.latency.clone());
        let measured = rate(&mut before.latency, monotonic_ms, measured, |before, now, _| {
            Some((now.mean_ms(before)?, now.quantile_ms(before, 0.99)?))
        });
        sample.set(Metric::IoLatency, measured.map(|(mean, _)| mean).or(latency));
        sample.set(Metric::IoLatencyP99, measured.map(|(_, p99)| p99));
        let exits = told.as_ref().and_then(|told| told.seen.get(&Kind::ProcessExit).copied());
        let exits = rate(&mut before.exits, monotonic_ms, exits, |before, now, seconds| {
            Some(now.checked_sub(*before)? as f64 / seconds)
        });
        sample.set(Metric::ProcessExits, exits);
        sample.set(Metric::OomKills, sources.counters.read().oom_kills.map(bytes));
        sample.set(Metric::DiskWear, sources.hardware.wear(&mut sources.buffer).ok());
        sample.set(Metric::Gpu, sources.hardware.gpu(&mut sources.buffer).ok());

        let raw = sources.pressure(Resource::Cpu).ok();
        sample.cpu_pressure = pressure(&mut before.psi_cpu, monotonic_ms, raw);
        let raw = sources.pressure(Resource::Memory).ok();
        sample.memory_pressure = pressure(&mut before.psi_memory, monotonic_ms, raw);
        let raw = sources.pressure(Resource::Io).ok();
        sample.io_pressure = pressure(&mut before.psi_io, monotonic_ms, raw);
        let some = |pressure: Option<Pressure>| pressure.map(|pressure| pressure.some.ratio());
        let full = |pressure: Option<Pressure>| pressure?.full.map(|full| full.ratio());
        sample.set(Metric::PsiCpu, some(sample.cpu_pressure));
        sample.set(Metric::PsiMem, some(sample.memory_pressure));
        sample.set(Metric::PsiMemFull, full(sample.memory_pressure));
        sample.set(Metric::PsiIo, some(sample.io_pressure));
        sample.set(Metric::PsiIoFull, full(sample.io_pressure));

        sample.set(Metric::Uptime, sources.uptime().ok());
        sample.set(Metric::Temperature, sources.temperature().ok());
        sample
    }

    /// What can be measured here and now, and from where. Reads every source once and touches no counter.
    #[must_use]
    pub fn capabilities(&mut self) -> Vec<Capability> {
        let kernel = |tells: bool, what: &str| match tells {
            true => Availability::Source("the runner's watch".to_owned()),
            false => Availability::Unavailable(format!("nobody tells {what}")),
        };
        let counts = self.told.as_ref();
        let exits = counts.is_some_and(|counts| counts.seen.contains_key(&Kind::ProcessExit));
        let exits = kernel(exits, "when processes end");
        let latency = counts.is_some_and(|counts| counts.latency.is_some());
        let latency = kernel(latency, "how long each disk request took");
        let sources = &mut self.sources;
        let oom = match sources.counters.read().oom_kills {
            Some(_) => Availability::Source("/proc/vmstat".to_owned()),
            None => Availability::Unavailable("/proc/vmstat has no oom_kill".to_owned()),
        };
        let wear = told("/sys/block", sources.hardware.wear(&mut sources.buffer));
        let gpu = told("/sys/devices", sources.hardware.gpu(&mut sources.buffer));
        let stat = told("/proc/stat", sources.cpu_times());
        let loadavg = told("/proc/loadavg", sources.load());
        let memory = sources.memory();
        let swap = match &memory {
            Ok(Memory { swap_used: None, .. }) => {
                Availability::Unavailable("/proc/meminfo has no swap".to_owned())
            }
            _ => told("/proc/meminfo", memory.clone()),
        };
        let meminfo = told("/proc/meminfo", memory);
        let disk = sources.first_disk();
        let net_dev = told("/proc/net/dev", sources.net_counters());
        let snmp = told("/proc/net/snmp", sources.retransmits());
        let diskstats = told("/proc/diskstats", sources.disk_counters());
        let uptime = told("/proc/uptime", sources.uptime());
        let psi_cpu = told("psi", sources.pressure(Resource::Cpu));
        let (psi_mem, psi_mem_full) = told_pressure("memory", sources.pressure(Resource::Memory));
        let (psi_io, psi_io_full) = told_pressure("io", sources.pressure(Resource::Io));
        let thermal = told("/sys/class/thermal", sources.temperature());

        let availability = |metric: Metric| match metric {
            Metric::Cpu => &stat,
            Metric::Load1 | Metric::Load5 | Metric::Load15 => &loadavg,
            Metric::MemUsed | Metric::MemTotal | Metric::MemAvailable => &meminfo,
            Metric::SwapUsed => &swap,
            Metric::DiskUsed | Metric::DiskTotal => &disk,
            Metric::NetRx | Metric::NetTx => &net_dev,
            Metric::PsiCpu => &psi_cpu,
            Metric::PsiMem => &psi_mem,
            Metric::PsiMemFull => &psi_mem_full,
            Metric::PsiIo => &psi_io,
            Metric::PsiIoFull => &psi_io_full,
            Metric::IoLatency => &diskstats,
            Metric::NetRetx => &snmp,
            Metric::Uptime => &uptime,
            Metric::Temperature => &thermal,
            Metric::IoLatencyP99 => &latency,
            Metric::ProcessExits => &exits,
            Metric::OomKills => &oom,
            Metric::DiskWear => &wear,
            Metric::Gpu => &gpu,
        };
        let capability =
            |metric: &Metric| Capability { metric: *metric, availability: availability(*metric).clone() };
        Metric::ALL.iter().map(capability).collect()
    }
}

/// Takes a rate against the reading before, or remembers that there is none.
fn rate<T, R>(
    previous: &mut Previous<T>,
    monotonic_ms: i64,
    now: Option<T>,
    compare: impl FnOnce(&T, &T, f64) -> Option<R>,
) -> Option<R> {
    let Some(now) = now else {
        previous.forget();
        return None;
    };
    previous.advance(monotonic_ms, now, |before, now| {
        let (before, seconds) = before?;
        compare(before, now, seconds)
    })
}

fn pressure(
    previous: &mut Previous<RawPressure>,
    monotonic_ms: i64,
    now: Option<RawPressure>,
) -> Option<Pressure> {
    let Some(now) = now else {
        previous.forget();
        return None;
    };
    Some(previous.advance(monotonic_ms, now, pressure_between))
}

fn told<T>(source: &str, reading: Result<T, ReadError>) -> Availability {
    match reading {
        Ok(_) => Availability::Source(source.to_owned()),
        Err(error) => Availability::Unavailable(error.to_string()),
    }
}

/// Availability of the lines `some` and `full`.
fn told_pressure(resource: &str, reading: Result<RawPressure, ReadError>) -> (Availability, Availability) {
    let full = match &reading {
        Ok(raw) if !raw.has_full() => {
            Availability::Unavailable(format!("/proc/pressure/{resource} has no line \"full\""))
        }
        _ => told("psi", reading.clone()),
    };
    (told("psi", reading), full)
}

#[derive(Debug, Clone, Copy)]
enum Resource {
    Cpu,
    Memory,
    Io,
}

impl Sources {
    fn cpu_times(&mut self) -> Result<CpuTimes, ReadError> {
        self.stat.read(&mut self.buffer, "processor times", parse_stat)
    }

    fn load(&mut self) -> Result<[f64; 3], ReadError> {
        self.loadavg.read(&mut self.buffer, "load averages", parse_loadavg)
    }

    fn memory(&mut self) -> Result<Memory, ReadError> {
        self.meminfo.read(&mut self.buffer, "memory sizes", parse_meminfo)
    }

    fn uptime(&mut self) -> Result<f64, ReadError> {
        self.uptime.read(&mut self.buffer, "uptime", parse_uptime)
    }

    fn retransmits(&mut self) -> Result<u64, ReadError> {
        self.snmp.read(&mut self.buffer, "TCP counters", parse_retransmits)
    }

    fn net_counters(&mut self) -> Result<Vec<NetCounters>, ReadError> {
        let (roots, interfaces) = (&self.roots, &mut self.interfaces);
        self.net_dev.read(&mut self.buffer, "interface but loopback and stacked ones", |text| {
            let counters = parse_net_dev(text, |name| interfaces.counts(roots, name))?;
            (!counters.is_empty()).then_some(counters)
        })
    }

    fn disk_counters(&mut self) -> Result<Vec<DiskCounters>, ReadError> {
        self.diskstats.read(&mut self.buffer, "disk", |text| {
            let counters = parse_diskstats(text)?;
            (!counters.is_empty()).then_some(counters)
        })
    }

    fn pressure(&mut self, resource: Resource) -> Result<RawPressure, ReadError> {
        let file = match resource {
            Resource::Cpu => &self.psi_cpu,
            Resource::Memory => &self.psi_memory,
            Resource::Io => &self.psi_io,
        };
        file.read(&mut self.buffer, "pressure", parse_pressure)
    }

    /// The hottest of the zones that matter.
    fn temperature(&mut self) -> Result<f64, ReadError> {
        const NAME: &str = "/sys/class/thermal";
        let hottest = self.zones.iter().filter_map(|path| {
            read_into(path, &mut self.buffer).ok()?;
            parse_millidegrees(str::from_utf8(&self.buffer).ok()?)
        });
        hottest
            .reduce(f64::max)
            .ok_or(ReadError::Malformed { path: NAME.to_owned(), what: "zone with a temperature" })
    }

    fn disk_usage(&self) -> Vec<DiskUsage> {
        let mut disks = Vec::with_capacity(self.disk_paths.len());
        let mut seen = Vec::with_capacity(self.disk_paths.len());
        for path in &self.disk_paths {
            let Ok(device) = std::fs::metadata(path).map(|metadata| metadata.dev()) else { continue };
            if seen.contains(&device) {
                continue;
            }
            if let Ok(usage) = disk_usage(path) {
                seen.push(device);
                disks.push(usage);
            }
        }
        disks
    }

    fn first_disk(&self) -> Availability {
        match self.disk_paths.first() {
            None => Availability::Unavailable("no path is watched".to_owned()),
            Some(path) => match disk_usage(path) {
                Ok(_) => Availability::Source(format!("statvfs {}", path.display())),
                Err(error) => Availability::Unavailable(format!("{}: {error}", path.display())),
            },
        }
    }
}

fn disk_usage(path: &Path) -> std::io::Result<DiskUsage> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    if stat.f_blocks == 0 {
        return Err(std::io::Error::other("the filesystem has no size"));
    }
    Ok(DiskUsage {
        path: path.to_owned(),
        total_bytes: bytes(stat.f_blocks),
        used_bytes: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
        available_bytes: bytes(stat.f_bavail),
    })
}

/// Degrees. Zones without a sensor behind them report numbers that no running machine has.
fn parse_millidegrees(text: &str) -> Option<f64> {
    let degrees = text.trim().parse::<i32>().ok()? as f64 / 1000.0;
    (-60.0..=200.0).contains(&degrees).then_some(degrees)
}

/// `temp` files of the processor's zones, or of all zones where none says that it is the processor's.
fn thermal_zones(roots: &Roots) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(roots.locate("/sys/class/thermal")) else { return Vec::new() };
    let mut buffer = Vec::new();
    let mut zones = Vec::new();
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("thermal_zone")) {
        if zones.len() == MOST_ZONES {
            break;
        }
        let kind = match read_into(&entry.path().join("type"), &mut buffer) {
            Ok(()) => String::from_utf8_lossy(&buffer).to_ascii_lowercase(),
            Err(_) => String::new(),
        };
        let is_processor = ["cpu", "x86_pkg", "soc"].iter().any(|word| kind.contains(word));
        zones.push((is_processor, entry.path().join("temp")));
    }
    let some_is = zones.iter().any(|(is_processor, _)| *is_processor);
    zones.into_iter().filter(|(is_processor, _)| *is_processor == some_is).map(|(_, path)| path).collect()
}
