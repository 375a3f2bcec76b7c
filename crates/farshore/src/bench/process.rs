//! What a process costs, from /proc.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result};

/// Resident bytes of a process.
pub(crate) fn rss_bytes(pid: u32) -> Result<u64> {
    field(pid, "VmRSS:")
}

/// The most bytes that a process had resident.
pub(crate) fn peak_rss_bytes(pid: u32) -> Result<u64> {
    field(pid, "VmHWM:")
}

/// Resident bytes of a process, where each page that it shares with others counts for it in part: what several processes of one program
/// cost together is the sum of these. See `proc_pid_smaps(5)`.
pub(crate) fn pss_bytes(pid: u32) -> Result<u64> {
    read(pid, "smaps_rollup", "Pss:")
}

fn field(pid: u32, name: &str) -> Result<u64> {
    read(pid, "status", name)
}

fn read(pid: u32, file: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}"))
        .with_context(|| format!("process {pid} is gone"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("no number")?;
    Ok(kib * 1024)
}

/// Seconds of processor time that a process has used.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let text =
        fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    // The name may hold anything; the fields begin after its last bracket. utime and stime are fields 14 and 15.
    let (_, fields) = text.rsplit_once(')').context("not a stat file")?;
    let ticks: Vec<f64> =
        fields.split_whitespace().skip(11).take(2).filter_map(|text| text.parse().ok()).collect();
    let [user, system] = ticks[..] else { anyhow::bail!("not a stat file") };
    #[expect(clippy::cast_precision_loss, reason = "a hundred or so")]
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok((user + system) / per_second)
}

/// How many cores a process uses over a time.
#[derive(Debug)]
pub(crate) struct Cores {
    pid: u32,
    since: Instant,
    before: f64,
}

impl Cores {
    pub(crate) fn begin(pid: u32) -> Result<Self> {
        Ok(Self { pid, since: Instant::now(), before: cpu_seconds(pid)? })
    }

    /// Cores since the beginning, to a thousandth of a percent.
    pub(crate) fn end(&self) -> Result<f64> {
        let used = cpu_seconds(self.pid)? - self.before;
        Ok((used / self.since.elapsed().as_secs_f64() * 100_000.0).round() / 100_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_uses_its_cores() {
        let pid = std::process::id();
        assert!(rss_bytes(pid).unwrap() > 100_000);
        assert!((10_000..=rss_bytes(pid).unwrap()).contains(&pss_bytes(pid).unwrap()));
        assert!(peak_rss_bytes(pid).unwrap() >= rss_bytes(pid).unwrap() / 2);
        let cores = Cores::begin(pid).unwrap();
        let start = Instant::now();
        let mut sum = 0u64;
        while start.elapsed().as_millis() < 200 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let used = cores.end().unwrap();
        assert!((0.1..64.0).contains(&used), "{used}");
        assert!(rss_bytes(u32::MAX).is_err());
    }
}
