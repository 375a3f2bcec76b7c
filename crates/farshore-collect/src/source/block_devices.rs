//! /proc/diskstats (Linux `Documentation/admin-guide/iostats.rst`).

/// Requests completed and the milliseconds they took, reading and writing together, since boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskCounters {
    name: String,
    requests: u64,
    busy_ms: u64,
}

/// More lines than this are not looked at.
const MOST_DEVICES: usize = 1024;
/// Devices in memory, and those that stand on other devices whose requests count already.
const NOT_DISKS: [&str; 6] = ["loop", "ram", "zram", "dm-", "md", "drbd"];

/// Each whole disk. `None` if a line is not of the known form.
pub(crate) fn parse_diskstats(text: &str) -> Option<Vec<DiskCounters>> {
    let mut disks: Vec<DiskCounters> = Vec::new();
    for line in text.lines().take(MOST_DEVICES) {
        let mut words = line.split_ascii_whitespace();
        let name = words.nth(2)?;
        if NOT_DISKS.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        // The kernel lists a disk before its partitions.
        if disks.iter().any(|disk| is_partition_of(name, &disk.name)) {
            continue;
        }
        let mut fields = [0u64; 8];
        for field in &mut fields {
            *field = words.next()?.parse().ok()?;
        }
        let [reads, _, _, read_ms, writes, _, _, write_ms] = fields;
        disks.push(DiskCounters {
            name: name.to_owned(),
            requests: reads.checked_add(writes)?,
            busy_ms: read_ms.checked_add(write_ms)?,
        });
    }
    Some(disks)
}

/// `sda1` of `sda`, `nvme0n1p2` of `nvme0n1`; but `mmcblk0boot0` is not of `mmcblk0`, nor `nvme0n10` of `nvme0n1`.
fn is_partition_of(name: &str, disk: &str) -> bool {
    let Some(rest) = name.strip_prefix(disk) else { return false };
    let number =
        if disk.ends_with(|c: char| c.is_ascii_digit()) { rest.strip_prefix('p') } else { Some(rest) };
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Mean milliseconds of a request completed between two readings, over the disks that both have. `None` if none
/// was completed, or a counter went back (the milliseconds are 32 bits wide on many kernels).
pub(crate) fn io_latency_ms(before: &[DiskCounters], now: &[DiskCounters]) -> Option<f64> {
    let (mut requests, mut busy_ms) = (0u64, 0u64);
    for disk in now {
        let Some(known) = before.iter().find(|known| known.name == disk.name) else { continue };
        requests = requests.checked_add(disk.requests.checked_sub(known.requests)?)?;
        busy_ms = busy_ms.checked_add(disk.busy_ms.checked_sub(known.busy_ms)?)?;
    }
    (requests > 0).then(|| busy_ms as f64 / requests as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(requests: u64, busy_ms: u64) -> DiskCounters {
        DiskCounters { name: "sda".to_owned(), requests, busy_ms }
    }

    #[test]
    fn partitions_are_told_from_disks() {
        for (name, base, expected) in [
            ("sda1", "sda", true),
            ("sda", "sda", false),
            ("sdaa", "sda", false),
            ("nvme0n1p2", "nvme0n1", true),
            ("nvme0n10", "nvme0n1", false),
            ("mmcblk0p1", "mmcblk0", true),
            ("mmcblk0boot0", "mmcblk0", false),
        ] {
            assert_eq!(is_partition_of(name, base), expected, "{name} of {base}");
        }
    }

    #[test]
    fn only_whole_disks_are_read() {
        let text = "   7 0 loop0 9 9 9 9 9 9 9 9 9 9 9\n 8 0 sda 10 1 2 30 5 1 2 70 0 10 40\n 8 1 sda1 9 0 0 9 9 0 0 9 0 0 0\n";
        assert_eq!(parse_diskstats(text), Some(vec![disk(15, 100)]));
        assert_eq!(parse_diskstats("8 0 sda 1 2 3"), None);
        assert_eq!(parse_diskstats("8 0 sda a b c d e f g h"), None);
        assert_eq!(parse_diskstats(&format!("8 0 sda {0} 0 0 0 {0} 0 0 0", u64::MAX)), None);
        assert_eq!(parse_diskstats(""), Some(vec![]));
    }

    #[test]
    fn latency_is_the_mean_of_what_was_completed() {
        assert_eq!(io_latency_ms(&[disk(10, 100)], &[disk(14, 110)]), Some(2.5));
        assert_eq!(io_latency_ms(&[disk(10, 100)], &[disk(10, 100)]), None, "no request");
        assert_eq!(io_latency_ms(&[disk(10, 100)], &[disk(14, 3)]), None, "wrapped milliseconds");
        assert_eq!(io_latency_ms(&[disk(10, 100)], &[disk(2, 300)]), None, "disk attached anew");
        assert_eq!(io_latency_ms(&[], &[disk(2, 300)]), None, "a new disk");
    }
}
