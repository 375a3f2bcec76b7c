//! The collector on the machine that runs the test.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farshore_collect::{
    AppUsage, Availability, Collector, CollectorConfig, HostFacts, Metric, Roots, process_tree,
};

/// Keeps one processor busy until the condition holds; panics after five seconds.
fn busy_until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(5), "not in five seconds");
        std::hint::black_box((0..100_000u64).fold(0, |sum, n| sum ^ n.wrapping_mul(31)));
    }
}

fn thread_cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
}

#[test]
fn what_is_said_to_be_available_is_measured() {
    let mut collector = Collector::new(CollectorConfig::with_state_folder(std::env::temp_dir()));
    let capabilities = collector.capabilities();
    let start = Instant::now();
    collector.sample(0, 0);
    busy_until(|| start.elapsed() >= Duration::from_millis(300));
    let sample = collector.sample(0, start.elapsed().as_millis() as i64);
    for capability in &capabilities {
        let value = sample.get(capability.metric);
        println!("{} = {value:?} from {}", capability.metric, capability.availability);
        match &capability.availability {
            // A quiet disk completes no request.
            Availability::Source(_) if capability.metric == Metric::IoLatency => {}
            Availability::Source(_) => assert!(value.is_some(), "{capability:?}"),
            Availability::Unavailable(_) => assert_eq!(value, None, "{capability:?}"),
        }
    }
    assert!(sample.get(Metric::Cpu) > Some(0.0), "a busy processor is seen");
    assert!(sample.get(Metric::Cpu) <= Some(1.0));
    assert!(sample.get(Metric::MemUsed) < sample.get(Metric::MemTotal));
    assert!(sample.get(Metric::DiskUsed) <= sample.get(Metric::DiskTotal));
    assert!(sample.cpu_count >= Some(1));
}

#[test]
fn a_sample_costs_little() {
    let mut collector = Collector::new(CollectorConfig::with_state_folder(std::env::temp_dir()));
    collector.sample(0, 0);
    let start = thread_cpu();
    let samples = 200;
    for n in 1..=samples {
        collector.sample(0, n * 1000);
    }
    let each = (thread_cpu() - start) / u32::try_from(samples).unwrap();
    println!("one sample: {each:?} of processor time");
    // Aimed at less than 1 ms; the bound has room for builds without optimisation on busy machines.
    assert!(each < Duration::from_millis(3), "{each:?}");
}

#[test]
fn facts_of_this_machine_are_there() {
    let facts = HostFacts::read(&Roots::default());
    println!("{facts:#?}");
    assert_eq!((facts.os, facts.arch), (std::env::consts::OS, std::env::consts::ARCH));
    assert!(facts.kernel.is_some() && facts.boot_id.is_some() && facts.hostname.is_some());
    assert!(facts.cpu_count >= Some(1) && facts.memory_total_bytes > Some(1 << 20));
}

/// A child that ends with the test, however it ends.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn this_process_and_its_child_are_seen_working() {
    let roots = Roots::default();
    let own = std::process::id();
    let child = Reaped(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
    let tree = process_tree(&roots, own);
    assert!(tree.contains(&own) && tree.contains(&child.0.id()), "{tree:?}");

    let first = AppUsage::of_processes(&roots, &[own]);
    assert!(first.memory_bytes > Some(100_000));
    // The kernel counts in ticks of 10 ms.
    busy_until(|| {
        let usage = AppUsage::of_processes(&roots, &[own]);
        usage.cpu_us > first.cpu_us.map(|us| us + 20_000)
    });
}

#[test]
fn the_cgroup_of_this_process_is_read_where_it_has_one() {
    let Ok(text) = std::fs::read_to_string("/proc/self/cgroup") else { return };
    for line in text.lines() {
        let path = line.splitn(3, ':').nth(2).unwrap_or_default();
        if path.len() > 1 {
            let usage = AppUsage::of_cgroup(&Roots::default(), path);
            println!("{line}: {usage:?}");
            // Inside a container the path may lie outside what is mounted; then it says so.
            if let Ok(usage) = usage {
                assert!(usage.cpu_us.is_some() || usage.memory_bytes.is_some());
            }
        }
    }
}
