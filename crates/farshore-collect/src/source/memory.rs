//! /proc/meminfo (proc(5)).

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) available: u64,
    pub(crate) swap_used: Option<u64>,
}

pub(crate) fn parse_meminfo(text: &str) -> Option<Memory> {
    let (mut total, mut available, mut free, mut buffers, mut cached, mut swap_total, mut swap_free) =
        (None, None, None, None, None, None, None);
    for line in text.lines() {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let slot = match name {
            "MemTotal" => &mut total,
            "MemAvailable" => &mut available,
            "MemFree" => &mut free,
            "Buffers" => &mut buffers,
            "Cached" => &mut cached,
            "SwapTotal" => &mut swap_total,
            "SwapFree" => &mut swap_free,
            _ => continue,
        };
        *slot = kibibytes(rest);
    }
    let total = total?;
    // MemAvailable is there since Linux 3.14; before, what is free or quickly freed is the usual estimate.
    let available = match available {
        Some(available) => available,
        None => free?.checked_add(buffers?)?.checked_add(cached?)?,
    };
    let swap_used = swap_total.zip(swap_free).and_then(|(total, free): (u64, u64)| total.checked_sub(free));
    (total > 0).then(|| Memory { total, available: available.min(total), swap_used })
}

fn kibibytes(rest: &str) -> Option<u64> {
    rest.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_get_an_estimate_and_nonsense_nothing() {
        let old = "MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 50 kB\nCached: 200 kB\n";
        let expected = Memory { total: 1_024_000, available: 350 * 1024, swap_used: None };
        assert_eq!(parse_meminfo(old), Some(expected));
        for text in
            ["", "MemTotal: 0 kB\nMemAvailable: 0 kB", "MemTotal: x kB", "MemTotal: 18446744073709551615 kB"]
        {
            assert_eq!(parse_meminfo(text), None, "{text:?}");
        }
        let swap = "MemTotal: 10 kB\nMemAvailable: 20 kB\nSwapTotal: 1 kB\nSwapFree: 2 kB\n";
        assert_eq!(parse_meminfo(swap), Some(Memory { total: 10240, available: 10240, swap_used: None }));
    }
}
