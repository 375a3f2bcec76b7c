//! What one app uses: from its cgroup (v2 or v1), or from its processes where it has none.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use crate::file::{Roots, read_into};

/// More processes than this are not looked at.
const MOST_PROCESSES: usize = 65_536;

/// What an app used so far, and holds now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AppUsage {
    /// Processor time since the app's cgroup or processes began, in microseconds. Grows.
    pub cpu_us: Option<u64>,
    /// Memory in bytes. A cgroup counts its page cache; processes count their resident pages, shared ones each time.
    pub memory_bytes: Option<u64>,
    /// Number of processes.
    pub processes: Option<u32>,
    /// Bytes read from disks. Grows.
    pub read_bytes: Option<u64>,
    /// Bytes written to disks. Grows.
    pub written_bytes: Option<u64>,
}

/// Why an app's usage could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// The path is empty or has components such as `..`.
    #[error("cgroup path {path:?} is not a plain path below the root")]
    BadPath {
        /// The path as given.
        path: String,
    },
    /// No hierarchy has this cgroup, or none of its counters can be read.
    #[error("no cgroup hierarchy has readable counters for {path:?}")]
    NotFound {
        /// The path as given.
        path: String,
    },
}

impl AppUsage {
    /// Reads a cgroup below `/sys/fs/cgroup`: unified (`cpu.stat`, `memory.current`), hybrid, or version 1
    /// (`cpuacct.usage`, `memory.usage_in_bytes`), each counter where it is found first.
    ///
    /// `cgroup` is the path as in `/proc/<pid>/cgroup`, such as `/farshore/kiosk`.
    ///
    /// # Errors
    /// [`UsageError`] if the path is not plain, or no counter can be read.
    pub fn of_cgroup(roots: &Roots, cgroup: &str) -> Result<Self, UsageError> {
        let relative = Path::new(cgroup.trim_start_matches('/'));
        let is_plain = relative.components().all(|component| matches!(component, Component::Normal(_)));
        if !is_plain || relative.as_os_str().is_empty() || cgroup.contains('\0') {
            return Err(UsageError::BadPath { path: cgroup.to_owned() });
        }
        let mount = roots.locate("/sys/fs/cgroup");
        let file = |hierarchy: &str, name: &str| mount.join(hierarchy).join(relative).join(name);
        let mut buffer = Vec::new();
        let mut number = |path: PathBuf, parse: fn(&str) -> Option<u64>| {
            read_into(&path, &mut buffer).ok()?;
            parse(str::from_utf8(&buffer).ok()?)
        };

        let unified = ["", "unified"];
        let cpu_us = unified
            .iter()
            .find_map(|hierarchy| number(file(hierarchy, "cpu.stat"), parse_usage_us))
            .or_else(|| {
                ["cpuacct", "cpu,cpuacct", "cpu"].iter().find_map(|hierarchy| {
                    number(file(hierarchy, "cpuacct.usage"), parse_number)
                        .map(|nanoseconds| nanoseconds / 1000)
                })
            });
        let memory_bytes = unified
            .iter()
            .find_map(|hierarchy| number(file(hierarchy, "memory.current"), parse_number))
            .or_else(|| number(file("memory", "memory.usage_in_bytes"), parse_number));
        let processes = ["", "unified", "cpuacct", "cpu,cpuacct", "memory", "pids"]
            .iter()
            .find_map(|hierarchy| number(file(hierarchy, "cgroup.procs"), count_lines))
            .and_then(|count| u32::try_from(count).ok());
        if cpu_us.is_none() && memory_bytes.is_none() {
            return Err(UsageError::NotFound { path: cgroup.to_owned() });
        }
        let mut disks = |path: PathBuf, parse: fn(&str) -> Option<(u64, u64)>| {
            read_into(&path, &mut buffer).ok()?;
            parse(str::from_utf8(&buffer).ok()?)
        };
        let moved = unified
            .iter()
            .find_map(|hierarchy| disks(file(hierarchy, "io.stat"), parse_io_stat))
            .or_else(|| disks(file("blkio", "blkio.throttle.io_service_bytes"), parse_blkio));
        let (read_bytes, written_bytes) = (moved.map(|moved| moved.0), moved.map(|moved| moved.1));
        Ok(Self { cpu_us, memory_bytes, processes, read_bytes, written_bytes })
    }

    /// Adds up processes from `/proc/<pid>/stat` and `statm`. Those that ended are left out, and take their
    /// processor time with them; with none left, only `processes` has a value.
    #[must_use]
    pub fn of_processes(roots: &Roots, pids: &[u32]) -> Self {
        let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
        let page_bytes = rustix::param::page_size() as u64;
        let folder = roots.locate("/proc");
        let mut buffer = Vec::new();
        let mut usage = Self { processes: Some(0), ..Self::default() };
        for pid in pids.iter().take(MOST_PROCESSES) {
            let folder = folder.join(pid.to_string());
            let Some(stat) = read_stat(&folder, &mut buffer) else { continue };
            let cpu_us = stat.ticks.saturating_mul(1_000_000) / ticks_per_second;
            usage.cpu_us = Some(usage.cpu_us.unwrap_or(0).saturating_add(cpu_us));
            usage.processes = usage.processes.map(|count| count.saturating_add(1));
            if let Some(pages) = read_resident_pages(&folder, &mut buffer) {
                let bytes = pages.saturating_mul(page_bytes);
                usage.memory_bytes = Some(usage.memory_bytes.unwrap_or(0).saturating_add(bytes));
            }
        }
        usage
    }
}

/// The process and all its descendants, by one pass over /proc. Descendants whose parent ended belong to
/// another parent by then and are not found: a cgroup does not lose them.
#[must_use]
pub fn process_tree(roots: &Roots, root: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(roots.locate("/proc")) else { return Vec::new() };
    let mut buffer = Vec::new();
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for entry in entries.flatten() {
        if parents.len() == MOST_PROCESSES {
            break;
        }
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(stat) = read_stat(&entry.path(), &mut buffer) {
            parents.push((pid, stat.parent));
        }
    }
    if !parents.iter().any(|(pid, _)| *pid == root) {
        return Vec::new();
    }
    parents.sort_unstable_by_key(|(pid, parent)| (*parent, *pid));
    let mut tree = vec![root];
    let mut known = HashSet::from([root]);
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        next += 1;
        let first = parents.partition_point(|(_, of)| *of < parent);
        let children = parents.iter().skip(first).take_while(|(_, of)| *of == parent);
        // Ids are used again while /proc is read, so what looks like a circle can occur.
        tree.extend(children.map(|(pid, _)| *pid).filter(|pid| known.insert(*pid)));
    }
    tree
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ProcessStat {
    parent: u32,
    /// User and system time in clock ticks.
    ticks: u64,
}

fn read_stat(folder: &Path, buffer: &mut Vec<u8>) -> Option<ProcessStat> {
    read_into(&folder.join("stat"), buffer).ok()?;
    parse_process_stat(buffer)
}

/// /proc/<pid>/stat (proc(5)). The name in parentheses is chosen by the process: any bytes, parentheses too.
fn parse_process_stat(bytes: &[u8]) -> Option<ProcessStat> {
    let end_of_name = bytes.iter().rposition(|byte| *byte == b')')?;
    let rest = str::from_utf8(bytes.get(end_of_name + 1..)?).ok()?;
    let mut words = rest.split_ascii_whitespace();
    // State, then the parent; user and system time are fields 14 and 15 of the line.
    let parent = words.nth(1)?.parse().ok()?;
    let user: u64 = words.nth(9)?.parse().ok()?;
    let system: u64 = words.next()?.parse().ok()?;
    Some(ProcessStat { parent, ticks: user.checked_add(system)? })
}

fn read_resident_pages(folder: &Path, buffer: &mut Vec<u8>) -> Option<u64> {
    read_into(&folder.join("statm"), buffer).ok()?;
    str::from_utf8(buffer).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn parse_usage_us(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("usage_usec "))?.trim().parse().ok()
}

fn parse_number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// `io.stat` of cgroup v2: a line for each disk, `8:0 rbytes=1 wbytes=2 …`.
fn parse_io_stat(text: &str) -> Option<(u64, u64)> {
    let sum = |key: &str| {
        let words = text.split_ascii_whitespace().filter_map(|word| word.strip_prefix(key));
        words.filter_map(|number| number.parse::<u64>().ok()).fold(0, u64::saturating_add)
    };
    Some((sum("rbytes="), sum("wbytes=")))
}

/// `blkio.throttle.io_service_bytes` of cgroup v1: lines such as `8:0 Read 1`.
fn parse_blkio(text: &str) -> Option<(u64, u64)> {
    let sum = |wanted: &str| {
        let lines = text.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.nth(1)? == wanted).then(|| words.next()?.parse::<u64>().ok()).flatten()
        });
        lines.fold(0, u64::saturating_add)
    };
    Some((sum("Read"), sum("Write")))
}

fn count_lines(text: &str) -> Option<u64> {
    u64::try_from(text.lines().count()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_cannot_lie_about_its_times_by_its_name() {
        let line = b"42 (a) R 1 (\xff) S 7 42 42 0 -1 4194560 1 2 3 4 500 25 9 9 20 0 1 0 100 1 1\n";
        assert_eq!(parse_process_stat(line), Some(ProcessStat { parent: 7, ticks: 525 }));
        for line in
            [&b""[..], b"42 (a", b"42 (a) S", b"42 (a) S 1 2 3", b"42 (a) S x 42 42 0 -1 0 1 2 3 4 5 6"]
        {
            assert_eq!(parse_process_stat(line), None);
        }
    }

    #[test]
    fn bytes_of_all_disks_are_added_up() {
        let v2 = "8:0 rbytes=100 wbytes=7 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=50 wbytes=0\n";
        assert_eq!(parse_io_stat(v2), Some((150, 7)));
        assert_eq!(parse_io_stat(""), Some((0, 0)));
        let v1 = "8:0 Read 100\n8:0 Write 7\n8:0 Sync 9\n8:0 Total 107\n8:16 Read 50\nTotal 157\n";
        assert_eq!(parse_blkio(v1), Some((150, 7)));
    }
}
