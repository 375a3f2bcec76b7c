use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;
use crate::time::{DAY_MS, HOUR_MS, MINUTE_MS};

fn at(text: &str) -> UnixMs {
    UnixMs(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
}

fn window(cron: &str, seconds: u32, zone: Option<&str>) -> WindowSpec {
    WindowSpec {
        kind: WindowKind::Maintenance,
        cron: cron.to_owned(),
        duration_seconds: seconds,
        time_zone: zone.map(str::to_owned),
    }
}

fn of_kind(kind: WindowKind, cron: &str, seconds: u32) -> WindowSpec {
    WindowSpec { kind, ..window(cron, seconds, None) }
}

fn riga() -> Zone {
    Zone::named("Europe/Riga").unwrap()
}

#[test]
fn a_nightly_window_follows_the_zone_of_the_device() {
    let nightly = Window::new(&window("0 2 * * *", 7200, None)).unwrap();
    // 02:00 in Riga is midnight UTC in winter and 23:00 UTC in summer.
    assert!(nightly.is_open(at("2026-01-10T00:00:00Z"), &riga()));
    assert!(!nightly.is_open(at("2026-01-09T23:59:59.999Z"), &riga()));
    assert!(nightly.is_open(at("2026-07-09T23:00:00Z"), &riga()));
    assert!(!nightly.is_open(at("2026-07-10T01:00:00Z"), &riga()), "closed after two hours");
    assert!(!nightly.is_open(at("2026-01-10T00:00:00Z"), &Zone::utc()));
    assert_eq!(nightly.next_open(at("2026-01-10T05:00:00Z"), &riga()), Some(at("2026-01-11T00:00:00Z")));
    let end = nightly.closes_at(at("2026-01-10T00:30:00Z"), &riga(), at("2026-02-01T00:00:00Z"));
    assert_eq!(end, Some(at("2026-01-10T02:00:00Z")));
}

#[test]
fn a_window_with_its_own_zone_ignores_the_device() {
    let own = Window::new(&window("0 2 * * *", 3600, Some("America/New_York"))).unwrap();
    assert!(own.is_open(at("2026-01-10T07:30:00Z"), &riga()));
    assert!(!own.is_open(at("2026-01-10T00:30:00Z"), &riga()));
}

#[test]
fn when_clocks_jump_over_an_opening_it_opens_after_the_jump() {
    // On 2026-03-29 at 03:00 the clocks of Riga show 04:00.
    let skipped = Window::new(&window("30 3 * * *", 3600, None)).unwrap();
    let night = at("2026-03-29T00:00:00Z");
    let opening = skipped.next_open(night, &riga()).unwrap();
    assert!((at("2026-03-29T01:00:00Z")..=at("2026-03-29T01:30:00Z")).contains(&opening), "{opening:?}");
    let end = skipped.closes_at(opening, &riga(), at("2026-04-01T00:00:00Z"));
    assert_eq!(end, Some(opening.plus_ms(HOUR_MS)), "an hour is an hour");
}

#[test]
fn when_clocks_go_back_a_fixed_opening_happens_once() {
    // On 2026-10-25 at 04:00 the clocks of Riga show 03:00 again.
    let twice = Window::new(&window("30 3 * * *", 600, None)).unwrap();
    let minutes = (0..6 * 60).map(|minute| at("2026-10-24T22:00:00Z").plus_ms(minute * MINUTE_MS));
    let open = minutes.filter(|minute| twice.is_open(*minute, &riga())).count();
    assert_eq!(open, 10);
}

#[test]
fn windows_that_follow_each_other_are_one_and_nobody_looks_beyond_the_horizon() {
    let calendar =
        Calendar::new(&[window("0 2 * * *", 3600, None), window("0 3 * * *", 3600, None)], &[], Energy::Any)
            .unwrap();
    let look =
        |horizon| calendar.look(Purpose::Install, &Zone::utc(), at("2026-05-01T02:10:00Z"), at(horizon));
    assert_eq!(look("2026-05-09T00:00:00Z"), Look::Open { until: at("2026-05-01T04:00:00Z") });
    assert_eq!(look("2026-05-01T02:15:00Z"), Look::Open { until: at("2026-05-01T02:15:00Z") });
}

#[test]
fn installing_needs_every_part_and_says_which_one_is_shut() {
    let calendar = Calendar::new(
        &[
            of_kind(WindowKind::Maintenance, "0 2 * * *", 4 * 3600),
            of_kind(WindowKind::Energy, "0 4 * * *", 7200),
        ],
        &[Blackout {
            from: "2026-12-20".parse().unwrap(),
            to: "2026-12-26".parse().unwrap(),
            time_zone: None,
        }],
        Energy::OffHours,
    )
    .unwrap();
    let look = |moment| calendar.look(Purpose::Install, &Zone::utc(), at(moment), at("2027-02-01T00:00:00Z"));
    let next = Some(at("2026-12-27T04:00:00Z"));
    assert_eq!(look("2026-12-20T05:00:00Z"), Look::Shut { next, by: Shut::Blackout });
    assert_eq!(look("2026-12-26T23:00:00Z"), Look::Shut { next, by: Shut::Window(WindowKind::Maintenance) });
    assert_eq!(look("2026-12-27T03:00:00Z"), Look::Shut { next, by: Shut::Window(WindowKind::Energy) });
    assert_eq!(look("2026-12-27T05:00:00Z"), Look::Open { until: at("2026-12-27T06:00:00Z") });
    assert!(calendar.is_always_open(Purpose::Download), "there is no download window");
}

#[test]
fn an_opening_ends_where_a_blackout_begins() {
    let calendar = Calendar::new(
        &[window("0 22 * * *", 4 * 3600, None)],
        &[Blackout {
            from: "2026-12-20".parse().unwrap(),
            to: "2026-12-20".parse().unwrap(),
            time_zone: None,
        }],
        Energy::Any,
    )
    .unwrap();
    let look =
        calendar.look(Purpose::Install, &riga(), at("2026-12-19T20:30:00Z"), at("2027-01-01T00:00:00Z"));
    assert_eq!(look, Look::Open { until: at("2026-12-19T22:00:00Z") }, "midnight in Riga");
}

#[test]
fn what_can_never_open_is_refused_by_field() {
    let refused = |field: &str, windows: &[WindowSpec], energy| {
        let errors = check(windows, &[], energy);
        assert!(errors.iter().any(|(found, _)| found == field), "{field}: {errors:?}");
    };
    refused("windows[0].cron", &[window("0 2 31 2 *", 3600, None)], Energy::Any);
    refused("windows[0].cron", &[window("0 2 29 2 *", 3600, None)], Energy::Any);
    refused("windows[0].cron", &[window("0 25 * * *", 3600, None)], Energy::Any);
    refused("windows[0].cron", &[window("0 0 2 * * *", 3600, None)], Energy::Any);
    refused("windows[0].cron", &[window("@daily", 3600, None)], Energy::Any);
    refused("windows[0].cron", &[window("", 3600, None)], Energy::Any);
    refused("windows[0].cron", &[window(&"1,".repeat(90), 3600, None)], Energy::Any);
    refused("windows[0].durationSeconds", &[window("0 2 * * *", 0, None)], Energy::Any);
    refused("windows[0].durationSeconds", &[window("0 2 * * *", MAX_SECONDS + 1, None)], Energy::Any);
    refused(
        "windows[1].timeZone",
        &[window("0 2 * * *", 3600, None), window("0 2 * * *", 60, Some("X"))],
        Energy::Any,
    );
    refused("energy", &[window("0 2 * * *", 3600, None)], Energy::OffHours);
    let apart = [
        of_kind(WindowKind::Maintenance, "0 2 * * *", 3600),
        of_kind(WindowKind::Energy, "0 12 * * *", 3600),
    ];
    refused("windows", &apart, Energy::OffHours);
    assert_eq!(check(&apart, &[], Energy::Any), [], "energy hours that nobody asked for shut nothing");
    refused("windows", &vec![window("0 2 * * *", 3600, None); MAX_WINDOWS + 1], Energy::Any);
}

#[test]
fn blackouts_that_end_before_they_begin_or_last_for_years_are_refused() {
    let refused = |field: &str, from: &str, to: &str, zone: Option<&str>| {
        let blackout = Blackout {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            time_zone: zone.map(str::to_owned),
        };
        let errors = check(&[], &[blackout], Energy::Any);
        assert!(errors.iter().any(|(found, _)| found == field), "{field}: {errors:?}");
    };
    refused("blackouts[0].to", "2026-12-20", "2026-12-19", None);
    refused("blackouts[0].to", "2026-12-20", "2029-12-19", None);
    refused("blackouts[0].timeZone", "2026-12-20", "2026-12-20", Some("Mars/Base"));
}

#[test]
fn what_people_write_survives_json_and_unknown_words_are_refused() {
    let text = r#"{"kind":"energy","cron":"0 1 * * *","durationSeconds":3600,"timeZone":"Europe/Riga"}"#;
    let spec: WindowSpec = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&spec).unwrap(), text);
    assert!(serde_json::from_str::<WindowSpec>(&text.replace("energy", "lunch")).is_err());
    let blackout: Blackout = serde_json::from_str(r#"{"from":"2026-12-20","to":"2027-01-02"}"#).unwrap();
    assert_eq!(serde_json::to_string(&blackout).unwrap(), r#"{"from":"2026-12-20","to":"2027-01-02"}"#);
}

/// Every opening by brute force: each minute of each day on the wall clock, as the pattern's fields say.
fn openings(minute: i64, hours: &[i8], zone: &Zone, first: UnixMs, days: i64) -> Vec<UnixMs> {
    let tz: &TimeZone = zone.tz();
    let start = jiff::Timestamp::from_millisecond(first.0).unwrap().to_zoned(tz.clone()).date();
    let mut found = Vec::new();
    for day in 0..days {
        let date = start + jiff::Span::new().days(day);
        for hour in hours {
            let wall: DateTime = date.at(*hour, i8::try_from(minute).unwrap(), 0, 0);
            let earliest = tz.to_ambiguous_zoned(wall).compatible().unwrap();
            found.push(UnixMs(earliest.timestamp().as_millisecond()));
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Around changes of the clock and far from them: open is what lies within the duration of an opening, and the ends fit.
    #[test]
    fn open_is_what_follows_an_opening(
        zone in prop::sample::select(vec!["UTC", "Europe/Riga", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
        day in 0_i64..730,
        minute in 0_i64..60,
        hours in prop::collection::btree_set(0_i8..24, 1..3),
        seconds in 60_u32..20_000,
        offsets in prop::collection::vec(0_i64..3 * DAY_MS, 20),
    ) {
        let zone = Zone::named(zone).unwrap();
        let first = at("2026-01-01T00:00:00Z").plus_ms(day * DAY_MS);
        let hours: Vec<i8> = hours.into_iter().collect();
        let list = hours.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let window = Window::new(&window(&format!("{minute} {list} * * *"), seconds, None)).unwrap();
        let all = openings(minute, &hours, &zone, first.plus_ms(-2 * DAY_MS), 9);
        // A wall clock time that is skipped may open anywhere within the hour that is skipped.
        let tz = zone.tz();
        let clear = |moment: UnixMs| {
            let offset = |ms: i64| tz.to_offset(jiff::Timestamp::from_millisecond(moment.0 + ms).unwrap());
            offset(-2 * DAY_MS) == offset(2 * DAY_MS)
        };
        for offset in offsets {
            let moment = first.plus_ms(offset);
            let end = i64::from(seconds) * 1000;
            let expected = all.iter().any(|open| *open <= moment && moment < open.plus_ms(end));
            let horizon = moment.plus_ms(5 * DAY_MS);
            if clear(moment) {
                prop_assert_eq!(window.is_open(moment, &zone), expected, "{:?}", moment);
            }
            match window.closes_at(moment, &zone, horizon) {
                Some(closes) => {
                    prop_assert!(window.is_open(moment, &zone) && window.is_open(UnixMs(closes.0 - 1), &zone));
                    prop_assert!(closes == horizon || !window.is_open(closes, &zone));
                    prop_assert_eq!(window.next_open(moment, &zone), Some(moment));
                }
                None => {
                    let next = window.next_open(moment, &zone).unwrap();
                    prop_assert!(next > moment && window.is_open(next, &zone));
                    prop_assert!(!window.is_open(UnixMs(next.0 - 1), &zone), "it opens no earlier");
                }
            }
        }
    }
}

fn freeze(from: &str, to: &str, zone: Option<&str>) -> Blackout {
    Blackout { from: from.parse().unwrap(), to: to.parse().unwrap(), time_zone: zone.map(str::to_owned) }
}

#[test]
fn windows_whose_every_opening_falls_into_a_blackout_are_told() {
    let told = |windows: &[WindowSpec], blackouts: &[Blackout], now: &str| {
        check_openings(windows, blackouts, Energy::Any, at(now))
            .map(|(field, text)| format!("{field} {text}"))
    };
    let christmas = [window("0 2 24 12 *", 7200, None)];
    let shut = [freeze("2026-12-20", "2027-01-02", None)];
    let text = told(&christmas, &shut, "2026-11-29T00:00:00Z").expect("the only opening of a year");
    assert!(text.starts_with("blackouts cover every opening of the windows"), "{text}");
    assert_eq!(told(&christmas, &shut, "2026-12-27T00:00:00Z"), None, "the next one is open");
    assert_eq!(told(&[window("0 2 * * *", 7200, None)], &shut, "2026-11-29T00:00:00Z"), None);
    let year = [freeze("2026-06-01", "2027-05-31", None), freeze("2027-06-01", "2028-05-31", None)];
    assert!(told(&[], &year, "2026-11-29T00:00:00Z").unwrap().contains("all of the next 366 days"));
    assert_eq!(told(&[], &year[..1], "2026-11-29T00:00:00Z"), None);
    // In whose zone? Each device may see it otherwise.
    let riga = [freeze("2026-12-20", "2027-01-02", Some("Europe/Riga"))];
    assert_eq!(told(&christmas, &riga, "2026-11-29T00:00:00Z"), None);
    let both = [window("0 2 24 12 *", 7200, Some("Europe/Riga"))];
    assert!(told(&both, &riga, "2026-11-29T00:00:00Z").is_some());
}

#[test]
fn what_takes_too_long_to_find_out_is_not_said_to_never_open() {
    let hourly = |cron: &str| Calendar::new(&[window(cron, 60, None)], &[], Energy::Any).unwrap();
    let (even, odd) = (hourly("0 * * * *"), hourly("30 * * * *"));
    let never = |mut moves: usize| {
        let now = at("2026-01-01T00:00:00Z");
        Calendar::never_meet(&[&even, &odd], Purpose::Install, &Zone::utc(), now, &mut moves)
    };
    assert!(!never(100));
    assert!(never(MOVES_TO_REFUSE));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two daily windows on one clock that is never put forward: what is found is plain arithmetic. Where it is, a night reaches further once a year.
    #[test]
    fn daily_windows_never_meet_where_their_hours_do_not(
        first in 0_u32..24, long in 1_u32..12, second in 0_u32..24, other in 1_u32..12,
    ) {
        let daily = |hour: u32, hours: u32| {
            Calendar::new(&[window(&format!("0 {hour} * * *"), hours * 3600, None)], &[], Energy::Any).unwrap()
        };
        let within = |hour: u32, begin: u32, hours: u32| (hour + 24 - begin) % 24 < hours;
        let meet = (0..24).any(|hour| within(hour, first, long) && within(hour, second, other));
        let (one, two) = (daily(first, long), daily(second, other));
        let mut moves = MOVES_TO_REFUSE;
        let now = at("2026-02-27T12:34:56Z");
        prop_assert_eq!(Calendar::never_meet(&[&one, &two], Purpose::Install, &Zone::utc(), now, &mut moves), !meet);
    }
}
