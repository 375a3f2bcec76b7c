//! One window: a cron pattern and how long it stays open.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use super::{MAX_CRON_LEN, MAX_SECONDS, MIN_SECONDS, WindowKind, WindowSpec, Zone, zone_problem};
use crate::time::{DAY_MS, SECOND_MS, UnixMs};

/// The first moment of a year that is no leap year: what opens in every year opens in this one.
pub(super) const REFERENCE: UnixMs = UnixMs(1_735_689_600_000);
pub(super) const YEAR_MS: i64 = 366 * DAY_MS;

/// A window that was checked and is ready to be asked.
#[derive(Clone, Debug)]
pub struct Window {
    kind: WindowKind,
    cron: Cron,
    duration_ms: i64,
    /// None: the device's.
    zone: Option<Zone>,
}

impl Window {
    /// Reads a window. Errors name the field; [`super::check`] looks further, at whether it ever opens.
    pub fn new(spec: &WindowSpec) -> Result<Self, Vec<(&'static str, String)>> {
        let mut errors = Vec::new();
        if !(MIN_SECONDS..=MAX_SECONDS).contains(&spec.duration_seconds) {
            errors.push(("durationSeconds", format!("is {MIN_SECONDS} to {MAX_SECONDS}")));
        }
        errors.extend(zone_problem(spec.time_zone.as_deref()).map(|text| ("timeZone", text)));
        let cron = match pattern(&spec.cron) {
            Ok(cron) => Some(cron),
            Err(text) => {
                errors.push(("cron", text));
                None
            }
        };
        match cron {
            Some(cron) if errors.is_empty() => Ok(Self {
                kind: spec.kind,
                cron,
                duration_ms: i64::from(spec.duration_seconds) * SECOND_MS,
                zone: spec.time_zone.as_deref().and_then(Zone::named),
            }),
            _ => Err(errors),
        }
    }

    /// Whether it opens in every year, leap year or not.
    pub(super) fn opens_every_year(&self) -> bool {
        self.next_open(REFERENCE, &Zone::utc()).is_some()
    }

    #[must_use]
    pub const fn kind(&self) -> WindowKind {
        self.kind
    }

    /// Its latest opening at or before `at`, on the clock of a device in `zone`.
    fn opened(&self, at: UnixMs, zone: &Zone) -> Option<UnixMs> {
        let at = self.zone.as_ref().unwrap_or(zone).at(at)?;
        let opening = self.cron.find_previous_occurrence(&at, true).ok()?;
        Some(UnixMs(opening.timestamp().as_millisecond()))
    }

    /// Whether it is open at this moment.
    #[must_use]
    pub fn is_open(&self, at: UnixMs, zone: &Zone) -> bool {
        self.end(at, zone).is_some_and(|end| end > at)
    }

    /// When its latest opening ends or ended.
    pub(super) fn end(&self, at: UnixMs, zone: &Zone) -> Option<UnixMs> {
        self.opened(at, zone).map(|opened| opened.plus_ms(self.duration_ms))
    }

    /// When it is open next: now if it is open, otherwise its next opening; none when there is none within a year.
    #[must_use]
    pub fn next_open(&self, at: UnixMs, zone: &Zone) -> Option<UnixMs> {
        if self.is_open(at, zone) {
            return Some(at);
        }
        let from = self.zone.as_ref().unwrap_or(zone).at(at)?;
        let opening = self.cron.find_next_occurrence(&from, false).ok()?;
        Some(UnixMs(opening.timestamp().as_millisecond())).filter(|opening| opening.since_ms(at) <= YEAR_MS)
    }

    /// When it closes, openings that follow each other without a pause as one; nobody looks beyond `horizon`. None when it is closed.
    #[must_use]
    pub fn closes_at(&self, at: UnixMs, zone: &Zone, horizon: UnixMs) -> Option<UnixMs> {
        closes(std::slice::from_ref(self), at, zone, horizon)
    }
}

/// When the last of these windows closes that keep it open from `at` without a pause, at most `horizon`. None when all are closed.
pub(super) fn closes(windows: &[Window], at: UnixMs, zone: &Zone, horizon: UnixMs) -> Option<UnixMs> {
    let latest = |at: UnixMs| windows.iter().filter_map(|window| window.end(at, zone)).max();
    let mut end = latest(at).filter(|end| *end > at)?;
    while end < horizon {
        match latest(end) {
            Some(later) if later > end => end = later,
            _ => break,
        }
    }
    Some(end.min(horizon.max(at)))
}

fn pattern(text: &str) -> Result<Cron, String> {
    const FORM: &str = "write minute, hour, day of month, month and day of week, for example \"0 2 * * MON-FRI\" for 02:00 on weekdays";
    if text.len() > MAX_CRON_LEN {
        return Err(format!("has at most {MAX_CRON_LEN} characters"));
    }
    if text.split_whitespace().count() != 5 {
        return Err(format!("has five fields: {FORM}"));
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(text).map_err(|error| format!("is no cron pattern ({error}): {FORM}"))
}
