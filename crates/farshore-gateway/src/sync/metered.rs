//! Whether what is sent now costs money: by the interface that the default route goes over, and the time of day.

use std::fs;

use farshore_domain::schedule::Zone;
use farshore_domain::time::UnixMs;

/// A wall clock before this (1 January 2025) has not been set.
const PLAUSIBLE_NS: i64 = 1_735_689_600_000_000_000;
const MAX_RULES: usize = 32;
const DAY_MINUTES: u16 = 24 * 60;

/// An interface that costs: a name, or the beginning of names with a `*` behind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    pattern: String,
    /// Minutes of the day from which and before which it costs; nothing: always. From later than to: over midnight.
    window: Option<(u16, u16)>,
}

/// Interfaces that cost, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metered {
    rules: Vec<Rule>,
    zone: Zone,
}

/// `06:00`; `24:00` where a day ends.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(hour) || !digits(minute) {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let all = hour * 60 + minute;
    (minute < 60 && all <= DAY_MINUTES).then_some(all)
}

impl Rule {
    /// `wwan0`, `ppp*`, `wwan*@06:00-22:00`.
    fn read(text: &str) -> Option<Self> {
        let (pattern, window) = match text.split_once('@') {
            None => (text, None),
            Some((pattern, window)) => {
                let (from, to) = window.split_once('-')?;
                let (from, to) = (minute(from.trim())?, minute(to.trim())?);
                if from == to || from == DAY_MINUTES {
                    return None;
                }
                (pattern.trim_end(), Some((from, to)))
            }
        };
        let fits = (1..=16).contains(&pattern.len())
            && !pattern.trim_end_matches('*').contains('*')
            && !pattern.ends_with("**")
            && pattern.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        fits.then(|| Self { pattern: pattern.to_owned(), window })
    }

    /// Without a default route nobody knows what it goes over: only `*` applies.
    fn is(&self, interface: Option<&str>) -> bool {
        match (self.pattern.strip_suffix('*'), interface) {
            (Some(""), _) => true,
            (Some(begin), Some(name)) => name.starts_with(begin),
            (None, Some(name)) => name == self.pattern,
            (_, None) => false,
        }
    }

    /// Without a clock that can be believed it costs at any time.
    fn holds(&self, minute: Option<u16>) -> bool {
        match (self.window, minute) {
            (None, _) | (_, None) => true,
            (Some((from, to)), Some(now)) if from < to => (from..to).contains(&now),
            (Some((from, to)), Some(now)) => now >= from || now < to,
        }
    }
}

impl Metered {
    /// Reads what costs, and the IANA name of the zone that times of day are of.
    pub(crate) fn read(rules: &[String], zone: Option<&str>) -> Result<Self, &'static str> {
        const WRONG: &str = "SYNC_METERED_INTERFACES is names of interfaces with commas between, each with the time of day in which it costs behind an @ where it does not always: wwan0@06:00-22:00,ppp*";
        let rules: Option<Vec<Rule>> = rules.iter().map(|rule| Rule::read(rule.trim())).collect();
        let rules = rules.filter(|rules| rules.len() <= MAX_RULES).ok_or(WRONG)?;
        let zone = match zone {
            None => Zone::utc(),
            Some(name) => Zone::named(name)
                .ok_or("SYNC_METERED_ZONE is the name of a time zone, such as Europe/Riga")?,
        };
        Ok(Self { rules, zone })
    }

    /// Any link costs.
    pub(crate) fn all() -> Self {
        Self { rules: vec![Rule { pattern: "*".to_owned(), window: None }], zone: Zone::utc() }
    }

    /// The interface, when sending costs now.
    pub(crate) fn now(&self, wall_ns: i64) -> Option<String> {
        if self.rules.is_empty() {
            return None;
        }
        // What can't be read is no route.
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let interface =
            default_v4(&read("/proc/net/route")).or_else(|| default_v6(&read("/proc/net/ipv6_route")));
        self.applies(interface.as_deref(), wall_ns).then(|| interface.unwrap_or_else(|| "any".to_owned()))
    }

    fn applies(&self, interface: Option<&str>, wall_ns: i64) -> bool {
        let minute = (wall_ns >= PLAUSIBLE_NS)
            .then(|| self.zone.minute_of_day(UnixMs(wall_ns.div_euclid(1_000_000))))
            .flatten();
        self.rules.iter().any(|rule| rule.is(interface) && rule.holds(minute))
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

    fn metered(rules: &[&str], zone: Option<&str>) -> Metered {
        Metered::read(&rules.iter().map(|rule| (*rule).to_owned()).collect::<Vec<_>>(), zone).unwrap()
    }

    /// The wall clock at this time of 2 July 2026, UTC.
    fn clock(hour: i64, minute: i64) -> i64 {
        (1_782_950_400 + hour * 3_600 + minute * 60) * 1_000_000_000
    }

    #[test]
    fn interfaces_are_named_or_begin_so() {
        let some = metered(&["ppp0", "wwan*"], None);
        for (interface, costs) in [
            (Some("ppp0"), true),
            (Some("wwan1"), true),
            (Some("ppp01"), false),
            (Some("eth0"), false),
            (None, false),
        ] {
            assert_eq!(some.applies(interface, 0), costs, "{interface:?}");
        }
        assert!(metered(&["*"], None).applies(None, 0) && !metered(&[], None).applies(Some("eth0"), 0));
        assert_eq!(metered(&[], None).now(0), None);
        assert!(metered(&["*"], None).now(0).is_some());
    }

    #[test]
    fn a_link_costs_by_day_and_is_free_by_night_in_its_own_zone() {
        let day = metered(&["wwan*@06:00-22:00", "ppp0"], None);
        for (hour, minute, costs) in
            [(5, 59, false), (6, 0, true), (12, 0, true), (21, 59, true), (22, 0, false), (0, 0, false)]
        {
            assert_eq!(day.applies(Some("wwan0"), clock(hour, minute)), costs, "{hour}:{minute}");
            assert!(day.applies(Some("ppp0"), clock(hour, minute)), "it costs always");
            assert!(!day.applies(Some("eth0"), clock(hour, minute)));
        }
        // Three hours later in Riga, in summer.
        let riga = metered(&["wwan0@06:00-22:00"], Some("Europe/Riga"));
        for (hour, costs) in [(2, false), (3, true), (18, true), (19, false)] {
            assert_eq!(riga.applies(Some("wwan0"), clock(hour, 0)), costs, "{hour}");
        }
        // Over midnight, and two windows of one interface.
        let night = metered(&["wwan0@22:00-06:00", "wwan0@12:00-13:00"], None);
        for (hour, costs) in [(22, true), (5, true), (6, false), (12, true), (13, false)] {
            assert_eq!(night.applies(Some("wwan0"), clock(hour, 0)), costs, "{hour}");
        }
        assert!(metered(&["wwan0@12:00-24:00"], None).applies(Some("wwan0"), clock(23, 59)));
    }

    #[test]
    fn a_clock_that_was_not_set_makes_a_window_hold_always() {
        let day = metered(&["wwan0@06:00-22:00"], None);
        for wrong in [0, -1, PLAUSIBLE_NS - 1, i64::MIN] {
            assert!(day.applies(Some("wwan0"), wrong), "{wrong}");
            assert!(!day.applies(Some("eth0"), wrong));
        }
        assert!(!day.applies(Some("wwan0"), clock(23, 0)));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for wrong in [
            "",
            "a*b",
            "a**",
            "a/b",
            "averyveryverylongname",
            "wwan0@",
            "wwan0@6:00-22:00",
            "wwan0@06:00",
            "wwan0@06:00-06:00",
            "wwan0@24:00-06:00",
            "wwan0@06:60-07:00",
            "wwan0@06:00-24:01",
            "@06:00-22:00",
            "wwan0@-06:00-22:00",
        ] {
            assert!(Metered::read(&[wrong.to_owned()], None).is_err(), "{wrong}");
        }
        assert!(Metered::read(&[], Some("Mars/Base")).is_err());
    }
}
