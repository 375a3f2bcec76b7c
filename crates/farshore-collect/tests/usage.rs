//! What apps use: cgroups of both versions, and processes.

use std::path::Path;

use farshore_collect::{AppUsage, Roots, UsageError, process_tree};

fn fixture(name: &str) -> Roots {
    Roots::under(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name))
}

#[test]
fn cgroups_of_every_layout_give_processor_time_and_memory() {
    for (layout, processes) in [("cgroup-v2", 2), ("cgroup-v1", 1), ("cgroup-hybrid", 0)] {
        let expected = AppUsage {
            cpu_us: Some(123_456),
            memory_bytes: Some(7_340_032),
            processes: Some(processes),
            ..AppUsage::default()
        };
        assert_eq!(AppUsage::of_cgroup(&fixture(layout), "/farshore/kiosk"), Ok(expected), "{layout}");
    }
}

#[test]
fn cgroup_paths_cannot_leave_the_hierarchy() {
    let roots = fixture("cgroup-v2");
    for path in ["", "/", "..", "/farshore/../..", "./farshore", "farshore/kiosk/../../../x", "a\0b"] {
        let error = AppUsage::of_cgroup(&roots, path);
        assert!(matches!(error, Err(UsageError::BadPath { .. })), "{path:?}: {error:?}");
    }
    assert!(matches!(AppUsage::of_cgroup(&roots, "/farshore/gone"), Err(UsageError::NotFound { .. })));
}

#[test]
fn processes_are_found_by_their_parents_and_added_up() {
    let roots = fixture("processes");
    assert_eq!(process_tree(&roots, 20), [20, 21]);
    assert_eq!(process_tree(&roots, 10), [10, 20, 21]);
    assert_eq!(process_tree(&roots, 31), [0u32; 0], "a torn line is no process");
    assert_eq!(process_tree(&roots, 99), [0u32; 0]);

    let usage = AppUsage::of_processes(&roots, &[20, 21, 31, 99]);
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    assert_eq!(usage.cpu_us, Some(200 * 1_000_000 / ticks_per_second));
    assert_eq!(usage.memory_bytes, Some(500 * rustix::param::page_size() as u64));
    assert_eq!(usage.processes, Some(2));

    let none = AppUsage::of_processes(&roots, &[99]);
    assert_eq!(none, AppUsage { processes: Some(0), ..AppUsage::default() });
}
