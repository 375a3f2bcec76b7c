//! /proc/net/dev (proc(5)), and which interfaces count.

use std::collections::BTreeMap;

use crate::file::{Roots, read_into};

/// Bytes since the interface came up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetCounters {
    pub(crate) name: String,
    pub(crate) rx: u64,
    pub(crate) tx: u64,
}

/// More interfaces than this are not looked at.
const MOST_INTERFACES: usize = 256;
/// One terabit per second: more is a broken counter.
const MOST_BYTES_PER_SECOND: f64 = 1.25e11;

/// Each interface that `counts` says yes to. `None` if the text is not that of /proc/net/dev.
pub(crate) fn parse_net_dev(text: &str, mut counts: impl FnMut(&str) -> bool) -> Option<Vec<NetCounters>> {
    let mut lines = text.lines();
    if !lines.next()?.starts_with("Inter-") {
        return None;
    }
    let mut interfaces = Vec::new();
    for line in lines.skip(1).take(MOST_INTERFACES) {
        let (name, values) = line.split_once(':')?;
        let name = name.trim();
        if !counts(name) {
            continue;
        }
        let mut values = values.split_ascii_whitespace();
        let rx = values.next()?.parse().ok()?;
        let tx = values.nth(7)?.parse().ok()?;
        interfaces.push(NetCounters { name: name.to_owned(), rx, tx });
    }
    Some(interfaces)
}

/// Bytes received and sent per second, over the interfaces that both readings have. `None` if there is none, or
/// one of their counters went back or beyond what hardware does.
pub(crate) fn net_rates(before: &[NetCounters], now: &[NetCounters], seconds: f64) -> Option<(f64, f64)> {
    let (mut rx, mut tx, mut found) = (0.0, 0.0, false);
    for interface in now {
        let Some(known) = before.iter().find(|known| known.name == interface.name) else { continue };
        let rate = |before: u64, now: u64| {
            let rate = now.checked_sub(before)? as f64 / seconds;
            (rate <= MOST_BYTES_PER_SECOND).then_some(rate)
        };
        rx += rate(known.rx, interface.rx)?;
        tx += rate(known.tx, interface.tx)?;
        found = true;
    }
    found.then_some((rx, tx))
}

/// Which interfaces carry traffic of their own. What goes through a bridge, a bond, a VLAN or a tunnel is
/// counted where it enters or leaves the machine, and not twice.
#[derive(Debug, Default)]
pub(crate) struct Interfaces {
    known: BTreeMap<String, bool>,
}

impl Interfaces {
    /// Whether this interface counts. Asked of /sys once for each name.
    pub(crate) fn counts(&mut self, roots: &Roots, name: &str) -> bool {
        if let Some(counts) = self.known.get(name) {
            return *counts;
        }
        let counts = carries_own_traffic(roots, name);
        // Containers make interfaces with ever new names; the memory of them is bounded.
        if self.known.len() >= MOST_INTERFACES {
            self.known.clear();
        }
        self.known.insert(name.to_owned(), counts);
        counts
    }
}

fn carries_own_traffic(roots: &Roots, name: &str) -> bool {
    const PREFIXES: [&str; 8] = ["veth", "docker", "virbr", "ifb", "dummy", "cni", "flannel", "cali"];
    const KINDS: [&str; 9] =
        ["bridge", "bond", "team", "vlan", "macvlan", "ipvlan", "vxlan", "wireguard", "geneve"];

    if name == "lo" || name.is_empty() || name.contains('/') || PREFIXES.iter().any(|p| name.starts_with(p)) {
        return false;
    }
    let folder = roots.locate("/sys/class/net").join(name);
    if ["bridge", "bonding", "tun_flags"].iter().any(|entry| folder.join(entry).exists()) {
        return false;
    }
    let mut buffer = Vec::new();
    // An interface without a readable uevent is of the plain kind.
    let kind = read_into(&folder.join("uevent"), &mut buffer).ok().and_then(|()| {
        let text = str::from_utf8(&buffer).ok()?;
        text.lines().find_map(|line| line.strip_prefix("DEVTYPE="))
    });
    !kind.is_some_and(|kind| KINDS.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(name: &str, rx: u64, tx: u64) -> NetCounters {
        NetCounters { name: name.to_owned(), rx, tx }
    }

    #[test]
    fn names_that_touch_their_numbers_are_read() {
        let text =
            "Inter-|   Receive\n face |bytes\n    lo: 1 0 0 0 0 0 0 0 2 0\n  eth0:3 0 0 0 0 0 0 0 4 0\n";
        let parsed = parse_net_dev(text, |name| name != "lo");
        assert_eq!(parsed, Some(vec![counters("eth0", 3, 4)]));
        for text in [
            "",
            "x",
            "Inter-\nface\neth0 1 2",
            "Inter-\nface\neth0: 1 2",
            "Inter-\nface\neth0: -1 0 0 0 0 0 0 0 4",
        ] {
            assert_eq!(parse_net_dev(text, |_| true), None, "{text:?}");
        }
    }

    #[test]
    fn new_and_vanished_interfaces_are_no_traffic() {
        let before = [counters("eth0", 1000, 100), counters("usb0", 5_000_000, 5)];
        let now = [counters("eth0", 2000, 300), counters("wlan0", 9_000_000_000, 9)];
        assert_eq!(net_rates(&before, &now, 10.0), Some((100.0, 20.0)));
        assert_eq!(net_rates(&before, &now[1..], 10.0), None);
    }

    #[test]
    fn a_counter_that_went_back_or_leapt_gives_no_rate() {
        let before = [counters("eth0", 4_294_967_000, 100)];
        assert_eq!(net_rates(&before, &[counters("eth0", 50, 200)], 10.0), None);
        assert_eq!(net_rates(&before, &[counters("eth0", u64::MAX, 200)], 10.0), None);
    }
}
