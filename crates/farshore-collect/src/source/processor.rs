//! /proc/stat, /proc/loadavg, /proc/uptime (proc(5)).

/// Ticks of all processors since boot: user, nice, system, idle, iowait, irq, softirq, steal. Guest time is
/// part of user time and not counted twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuTimes {
    fields: [u64; 8],
    pub(crate) online: u32,
}

const IDLE: usize = 3;
const IOWAIT: usize = 4;

pub(crate) fn parse_stat(text: &str) -> Option<CpuTimes> {
    let mut lines = text.lines();
    let mut words = lines.next()?.split_ascii_whitespace();
    if words.next()? != "cpu" {
        return None;
    }
    let mut fields = [0; 8];
    for (index, field) in fields.iter_mut().enumerate() {
        match words.next() {
            Some(word) => *field = word.parse().ok()?,
            // Kernels before 2.6.11 end earlier; the first four were always there.
            None if index > IDLE => break,
            None => return None,
        }
    }
    let online = lines.take_while(|line| line.starts_with("cpu")).count();
    Some(CpuTimes { fields, online: u32::try_from(online).ok()? })
}

/// Busy share between two readings. `None` if no time passed or the counters began anew.
pub(crate) fn busy_ratio(before: &CpuTimes, now: &CpuTimes) -> Option<f64> {
    let total = |times: &CpuTimes| times.fields.iter().try_fold(0u64, |sum, field| sum.checked_add(*field));
    if total(now)? <= total(before)? {
        return None;
    }
    let mut passed = [0u64; 8];
    for (index, field) in passed.iter_mut().enumerate() {
        // Idle and iowait are known to step back a little (proc(5)); that is no reset.
        *field = now.fields[index].saturating_sub(before.fields[index]);
    }
    let all: u64 = passed.iter().sum();
    let idle = passed[IDLE] + passed[IOWAIT];
    (all > 0).then(|| (all - idle) as f64 / all as f64)
}

/// The three load averages.
pub(crate) fn parse_loadavg(text: &str) -> Option<[f64; 3]> {
    let mut words = text.split_ascii_whitespace();
    let mut next = || words.next()?.parse::<f64>().ok().filter(|load| load.is_finite() && *load >= 0.0);
    Some([next()?, next()?, next()?])
}

/// Seconds since boot, whole.
pub(crate) fn parse_uptime(text: &str) -> Option<f64> {
    let seconds: f64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    (seconds.is_finite() && seconds >= 0.0).then(|| seconds.floor())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(line: &str) -> CpuTimes {
        parse_stat(line).unwrap()
    }

    #[test]
    fn busy_is_what_is_neither_idle_nor_waiting() {
        let before = times("cpu  100 0 50 800 50 0 0 0 90 0\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nintr 5\n");
        let now = times("cpu  120 0 55 860 60 3 2 0 99 0\n");
        assert_eq!(before.online, 2);
        assert_eq!(busy_ratio(&before, &now), Some(0.3));
    }

    #[test]
    fn iowait_that_steps_back_is_not_negative_time() {
        let before = times("cpu 100 0 50 800 50 0 0 0\n");
        let now = times("cpu 110 0 50 900 48 0 0 0\n");
        let ratio = busy_ratio(&before, &now).unwrap();
        assert!((0.09..0.1).contains(&ratio), "{ratio}");
    }

    #[test]
    fn a_reset_or_a_standstill_gives_nothing() {
        let before = times("cpu 100 0 50 800 50 0 0 0\n");
        assert_eq!(busy_ratio(&before, &before), None);
        assert_eq!(busy_ratio(&before, &times("cpu 1 0 1 5 0 0 0 0\n")), None);
        let huge = format!("cpu {0} {0} 0 0 0 0 0 0\n", u64::MAX);
        assert_eq!(busy_ratio(&before, &times(&huge)), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "cpu", "cpu 1 2 3", "cpu a b c d", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 2 3 -4 5 6 7 8"] {
            assert_eq!(parse_stat(text), None, "{text:?}");
        }
        assert!(parse_stat("cpu 1 2 3 4").is_some());
        assert_eq!(parse_loadavg("0.10 nan 0.30"), None);
        assert_eq!(parse_loadavg("0.10 0.20 0.30 1/84 9190\n"), Some([0.1, 0.2, 0.3]));
        assert_eq!(parse_uptime("560.96 812.64\n"), Some(560.0));
        assert_eq!(parse_uptime("-1 0"), None);
        assert_eq!(parse_uptime("inf"), None);
    }
}
