//! The collector on captured trees: what it measures, what it refuses, what it says about it.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use std::fs;
use std::path::Path;

use farshore_collect::{Availability, Collector, CollectorConfig, HostFacts, HostSample, Metric, Roots};
use tempfile::TempDir;

/// A machine made of files, which can change under the collector.
struct Machine(TempDir);

impl Machine {
    fn kiosk() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        machine.overlay("kiosk");
        machine
    }

    fn overlay(&self, fixture: &str) {
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture), self.0.path());
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.path().join(path)).unwrap()
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.0.path().join(path)).unwrap();
    }

    fn roots(&self) -> Roots {
        Roots::under(self.0.path())
    }

    fn collector(&self) -> Collector {
        Collector::new(CollectorConfig { roots: self.roots(), disk_paths: vec![self.0.path().to_owned()] })
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// All but the disk, whose size is that of the machine that runs the test.
fn listed(sample: &HostSample) -> String {
    let fixed = sample.iter().filter(|(metric, _)| !matches!(metric, Metric::DiskUsed | Metric::DiskTotal));
    fixed.map(|(metric, value)| format!("{metric}={value}")).collect::<Vec<_>>().join(" ")
}

const RATES: [Metric; 5] = [Metric::Cpu, Metric::NetRx, Metric::NetTx, Metric::IoLatency, Metric::NetRetx];

#[test]
fn the_first_sample_has_levels_and_the_second_rates() {
    let machine = Machine::kiosk();
    let mut collector = machine.collector();
    let first = collector.sample(1_795_132_800_000, 5_000);
    assert_eq!(
        listed(&first),
        "load1=1.3 load5=0.83 load15=0.35 mem_used=409600000 mem_total=1024000000 mem_available=614400000 \
         swap_used=102400000 psi_cpu=0.125 psi_mem=0 psi_mem_full=0.005 psi_io=0.03 psi_io_full=0.005 uptime=86400 \
         temperature=48.3"
    );
    assert_eq!((first.at_ms, first.cpu_count), (1_795_132_800_000, Some(2)));

    machine.overlay("kiosk-later");
    let second = collector.sample(1_795_132_810_000, 15_000);
    // cpu: 510 of 2000 ticks. net: eth0 and wwan0 only. psi: 2.5 s, 1 s and 0.5 s of 10 s. io: 300 ms for 40
    // requests of the one real disk. net_retx: 25 in 10 s.
    assert_eq!(
        listed(&second),
        "cpu=0.255 load1=1.3 load5=0.83 load15=0.35 mem_used=409600000 mem_total=1024000000 \
         mem_available=614400000 swap_used=102400000 net_rx=110000 net_tx=15000 psi_cpu=0.25 psi_mem=0 \
         psi_mem_full=0 psi_io=0.1 psi_io_full=0.05 io_latency=7.5 net_retx=2.5 uptime=86410 temperature=50.1"
    );
    let pressure = second.cpu_pressure.unwrap();
    assert_eq!((pressure.some.avg10, pressure.some.interval), (0.15, Some(0.25)));
    assert!(second.get(Metric::DiskTotal) >= second.get(Metric::DiskUsed));
}

#[test]
fn a_machine_that_has_nothing_gives_nothing_and_says_why() {
    let machine = Machine(tempfile::tempdir().unwrap());
    let mut collector = Collector::new(CollectorConfig {
        roots: machine.roots(),
        disk_paths: vec!["/does/not/exist".into()],
    });
    for monotonic_ms in [0, 10_000] {
        assert_eq!(collector.sample(0, monotonic_ms).iter().count(), 0);
    }
    let capabilities = collector.capabilities();
    assert_eq!(capabilities.len(), Metric::COUNT);
    for capability in &capabilities {
        assert!(matches!(&capability.availability, Availability::Unavailable(reason) if !reason.is_empty()));
    }
    let psi = capabilities.iter().find(|capability| capability.metric == Metric::PsiIo).unwrap();
    assert_eq!(
        psi.availability.to_string(),
        "unavailable: /proc/pressure/io cannot be read: entity not found"
    );
}

#[test]
fn capabilities_name_each_source_and_each_lack() {
    let machine = Machine::kiosk();
    machine.write("proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
    machine.write("proc/net/snmp", "Tcp: RetransSegs\n");
    machine.write("proc/diskstats", "7 0 loop0 0 0 0 0 0 0 0 0 0 0 0\n");
    machine.write("proc/uptime", vec![b'1'; 2 * 1024 * 1024]);
    machine.write("proc/loadavg", [0xff, 0xfe]);
    let mut collector = machine.collector();
    let of = |collector: &mut Collector, metric| {
        let all = collector.capabilities();
        all.into_iter().find(|capability| capability.metric == metric).unwrap().availability.to_string()
    };
    for (metric, expected) in [
        (Metric::Cpu, "/proc/stat"),
        (Metric::NetRx, "/proc/net/dev"),
        (Metric::PsiMem, "psi"),
        (Metric::PsiMemFull, "unavailable: /proc/pressure/memory has no line \"full\""),
        (Metric::NetRetx, "unavailable: /proc/net/snmp has no TCP counters"),
        (Metric::IoLatency, "unavailable: /proc/diskstats has no disk"),
        (Metric::Uptime, "unavailable: /proc/uptime is larger than 1048576 bytes"),
        (Metric::Load1, "unavailable: /proc/loadavg has no load averages"),
        (Metric::Temperature, "/sys/class/thermal"),
    ] {
        assert_eq!(of(&mut collector, metric), expected, "{metric}");
    }
    let sample = collector.sample(0, 0);
    assert_eq!((sample.get(Metric::PsiMem), sample.get(Metric::PsiMemFull)), (Some(0.0), None));
}

#[test]
fn clocks_that_leap_give_no_rate_and_the_next_sample_is_right_again() {
    let machine = Machine::kiosk();
    let mut collector = machine.collector();
    collector.sample(0, 100_000);
    machine.overlay("kiosk-later");
    // Too soon for a rate; the base stays.
    let soon = collector.sample(0, 100_001);
    assert!(RATES.iter().all(|metric| soon.get(*metric).is_none()), "{soon:?}");
    assert_eq!(collector.sample(0, 110_000).get(Metric::NetRetx), Some(2.5));
    // Backwards, and beyond what can be counted.
    for monotonic_ms in [5_000, i64::MIN, i64::MAX] {
        let sample = collector.sample(i64::MIN, monotonic_ms);
        assert!(RATES.iter().all(|metric| sample.get(*metric).is_none()), "{sample:?}");
    }
    collector.sample(0, 1_000);
    let sample = collector.sample(0, 2_000);
    assert_eq!((sample.get(Metric::NetRetx), sample.get(Metric::NetRx)), (Some(0.0), Some(0.0)));
}

#[test]
fn counters_that_go_back_give_no_rate() {
    let machine = Machine::kiosk();
    machine.overlay("kiosk-later");
    let mut collector = machine.collector();
    collector.sample(0, 0);
    machine.overlay("kiosk");
    let sample = collector.sample(0, 10_000);
    assert!(RATES.iter().all(|metric| sample.get(*metric).is_none()), "{sample:?}");
    let pressure = sample.cpu_pressure.unwrap();
    assert_eq!((pressure.some.interval, pressure.some.ratio()), (None, 0.125));
    // And forward again.
    machine.overlay("kiosk-later");
    assert_eq!(collector.sample(0, 20_000).get(Metric::NetRetx), Some(2.5));
}

#[test]
fn a_source_that_vanishes_and_returns_begins_anew() {
    let machine = Machine::kiosk();
    let mut collector = machine.collector();
    collector.sample(0, 0);
    let text = machine.read("proc/net/snmp");
    machine.remove("proc/net/snmp");
    assert_eq!(collector.sample(0, 10_000).get(Metric::NetRetx), None);
    machine.write("proc/net/snmp", text);
    assert_eq!(collector.sample(0, 20_000).get(Metric::NetRetx), None);
    assert_eq!(collector.sample(0, 30_000).get(Metric::NetRetx), Some(0.0));
}

/// Every file of the kiosk, cut, shifted and overwritten in many ways: no panic, and no value that cannot be.
#[test]
fn damaged_files_never_give_absurd_values() {
    let machine = Machine::kiosk();
    let files = [
        "proc/stat",
        "proc/loadavg",
        "proc/meminfo",
        "proc/net/dev",
        "proc/net/snmp",
        "proc/diskstats",
        "proc/uptime",
        "proc/pressure/cpu",
        "proc/pressure/memory",
        "proc/pressure/io",
        "sys/class/thermal/thermal_zone1/temp",
    ];
    let mut collector = machine.collector();
    let mut monotonic_ms = 0;
    for file in files {
        let sound = machine.read(file);
        let max = u64::MAX.to_string();
        let mut variants: Vec<Vec<u8>> = ["", "\n", "\0\0\0", ":", "-1", "nan nan nan", "inf inf inf", &max]
            .iter()
            .map(|text| text.as_bytes().to_vec())
            .collect();
        variants.extend((0..sound.len()).step_by(5).map(|length| sound.as_bytes()[..length].to_vec()));
        for digit in ['0', '1', '4', '8'] {
            variants.push(sound.replace(digit, &max).into_bytes());
            variants.push(sound.replace(digit, "-").into_bytes());
            variants.push(sound.replace(digit, &"9".repeat(4)).into_bytes());
            variants.push(sound.replace(digit, "\u{e9}").into_bytes());
        }
        variants.push(vec![0xff; 300]);
        for variant in variants {
            machine.write(file, &variant);
            monotonic_ms += 1_000;
            let sample = collector.sample(0, monotonic_ms);
            for (metric, value) in sample.iter() {
                let most = match metric.unit() {
                    farshore_collect::Unit::Ratio => 1.0,
                    farshore_collect::Unit::Celsius => 200.0,
                    farshore_collect::Unit::BytesPerSecond => 1e12,
                    _ => f64::MAX,
                };
                let least = if metric == Metric::Temperature { -60.0 } else { 0.0 };
                assert!((least..=most).contains(&value), "{metric}={value} after {file}: {variant:?}");
            }
            assert_eq!(collector.capabilities().len(), Metric::COUNT);
        }
        machine.write(file, &sound);
    }
}

#[test]
fn zones_without_a_sensor_are_left_out() {
    let machine = Machine::kiosk();
    let temperature = |machine: &Machine| machine.collector().sample(0, 0).get(Metric::Temperature);
    machine.write("sys/class/thermal/thermal_zone1/temp", "-274000\n");
    assert_eq!(temperature(&machine), None);
    // No zone is the processor's: the hottest counts.
    machine.write("sys/class/thermal/thermal_zone1/type", "acpitz\n");
    machine.write("sys/class/thermal/thermal_zone1/temp", "27800\n");
    assert_eq!(temperature(&machine), Some(91.0));
}

#[test]
fn a_filesystem_that_two_paths_share_is_listed_once() {
    let machine = Machine::kiosk();
    machine.write("state/file", "");
    let root = machine.0.path();
    let paths = vec![root.to_owned(), root.join("state"), root.join("missing")];
    let mut collector = Collector::new(CollectorConfig { roots: machine.roots(), disk_paths: paths });
    let sample = collector.sample(0, 0);
    assert_eq!(sample.disks.iter().map(|disk| disk.path.as_path()).collect::<Vec<_>>(), [root]);

    let mut collector = Collector::new(CollectorConfig {
        roots: machine.roots(),
        disk_paths: vec![root.join("missing"), root.join("state")],
    });
    let sample = collector.sample(0, 0);
    assert_eq!(sample.disks.len(), 1);
    assert_eq!(sample.get(Metric::DiskTotal), None, "the second path does not stand in for the first");
}

#[test]
fn facts_are_read_from_the_tree() {
    let facts = HostFacts::read(&Machine::kiosk().roots());
    assert_eq!(facts.os, "linux");
    assert_eq!(facts.kernel.as_deref(), Some("6.1.0-25-arm64"));
    assert_eq!(facts.os_name.as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
    assert_eq!(facts.model.as_deref(), Some("Raspberry Pi 4 Model B Rev 1.4"));
    assert_eq!(facts.cpu_count, Some(2));
    assert_eq!(facts.memory_total_bytes, Some(1_024_000_000));
    assert_eq!(facts.boot_id.as_deref(), Some("0f3c2f6e-3f5c-4e1b-8a39-6f0b1c2d3e4f"));
    assert_eq!(facts.hostname.as_deref(), Some("kiosk-berlin-07"));

    let nothing = HostFacts::read(&Roots::under(tempfile::tempdir().unwrap().path()));
    assert_eq!((nothing.kernel, nothing.cpu_count, nothing.boot_id), (None, None, None));
}
