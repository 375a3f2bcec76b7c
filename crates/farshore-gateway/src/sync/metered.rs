//! Whether what is sent now costs money: by the interface that the default route goes over.

use std::fs;

/// Interfaces that cost: names, or the beginnings of names with a `*` behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metered(Vec<String>);

impl Metered {
    pub(crate) fn new(patterns: &[String]) -> Self {
        Self(patterns.to_vec())
    }

    /// The interface, when sending costs now.
    pub(crate) fn now(&self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        // What can't be read is no route.
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let interface =
            default_v4(&read("/proc/net/route")).or_else(|| default_v6(&read("/proc/net/ipv6_route")));
        self.applies(interface.as_deref()).then(|| interface.unwrap_or_else(|| "any".to_owned()))
    }

    /// Without a default route nobody knows what it goes over: only `*` applies.
    fn applies(&self, interface: Option<&str>) -> bool {
        self.0.iter().any(|pattern| match (pattern.strip_suffix('*'), interface) {
            (Some(""), _) => true,
            (Some(begin), Some(name)) => name.starts_with(begin),
            (None, Some(name)) => name == pattern,
            (_, None) => false,
        })
    }
}

const UP: u32 = 1;

/// The interface of the default route with the lowest metric, out of `/proc/net/route`.
fn default_v4(text: &str) -> Option<String> {
    let routes = text.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [interface, destination, _, flags, _, _, metric, mask, ..] = fields.as_slice() else {
            return None;
        };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let is_default = *destination == "00000000" && *mask == "00000000" && flags & UP != 0;
        is_default.then(|| Some((metric.parse::<u64>().ok()?, (*interface).to_owned())))?
    });
    routes.min().map(|(_, interface)| interface)
}

/// The same out of `/proc/net/ipv6_route`, where the route that refuses stands on `lo`.
fn default_v6(text: &str) -> Option<String> {
    let routes = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, length, _, _, _, metric, _, _, flags, interface] = fields.as_slice() else {
            return None;
        };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let is_default = destination.bytes().all(|digit| digit == b'0') && *length == "00";
        let metric = u64::from_str_radix(metric, 16).ok()?;
        (is_default && flags & UP != 0 && *interface != "lo").then(|| (metric, (*interface).to_owned()))
    });
    routes.min().map(|(_, interface)| interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        wwan0\t00000000\t0100000A\t0003\t0\t0\t700\t00000000\t0\t0\t0\n\
        eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
        eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
    const V6: &str = "fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n\
        00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003    wwan0\n\
        00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";

    #[test]
    fn the_default_route_with_the_lowest_metric_counts() {
        assert_eq!(default_v4(V4).as_deref(), Some("eth0"));
        let without = V4.lines().filter(|line| !line.contains("0101A8C0")).collect::<Vec<_>>().join("\n");
        assert_eq!(default_v4(&without).as_deref(), Some("wwan0"));
        assert_eq!(default_v6(V6).as_deref(), Some("wwan0"));
        for broken in ["", "Iface\n", "x\ny z\n\n", "a b c d e f g h\neth0 00000000 x 0003 0 0 x 00000000 0"]
        {
            assert_eq!((default_v4(broken), default_v6(broken)), (None, None), "{broken}");
        }
    }

    #[test]
    fn interfaces_are_named_or_begin_so() {
        let metered =
            |patterns: &[&str]| Metered::new(&patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        let some = metered(&["ppp0", "wwan*"]);
        for (interface, costs) in [
            (Some("ppp0"), true),
            (Some("wwan1"), true),
            (Some("ppp01"), false),
            (Some("eth0"), false),
            (None, false),
        ] {
            assert_eq!(some.applies(interface), costs, "{interface:?}");
        }
        assert!(metered(&["*"]).applies(None) && !metered(&[]).applies(Some("eth0")));
        assert_eq!(metered(&[]).now(), None);
        assert!(metered(&["*"]).now().is_some());
    }
}
