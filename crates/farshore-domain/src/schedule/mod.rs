//! When something may be done: windows in the zone of a device, blackout dates, cheap hours.
//!
//! A window opens at each time that its cron pattern names on the wall clock of its zone, and stays open for `durationSeconds` of elapsed time.
//! When clocks jump forward over an opening, it opens right after the jump; when they go back, an opening at a fixed time happens once.
//! Everything here is a function of the moment that is passed in. Zones are built in ([`Zone`]); no file is read.
//!
//! Layout: [`Zone`] names zones, [`Window`] is one pattern, [`Calendar`] puts windows, blackouts and energy hours together; this file is what people write.

mod calendar;
#[cfg(test)]
mod tests;
mod window;
mod zone;

pub use calendar::{Calendar, Look, MOVES_TO_REFUSE, Purpose, Shut};
pub use window::Window;
pub use zone::Zone;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::time::UnixMs;

/// At most this many windows, and this many blackouts, in one list.
pub const MAX_WINDOWS: usize = 32;
/// At most this many characters in a cron pattern.
pub const MAX_CRON_LEN: usize = 128;
const MIN_SECONDS: u32 = 60;
const MAX_SECONDS: u32 = 7 * 24 * 3600;
const MAX_BLACKOUT_DAYS: i32 = 366;

/// What a window is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum WindowKind {
    /// Installs and restarts happen inside.
    Maintenance,
    /// Downloads begin inside.
    Download,
    /// Energy is cheap inside: heavy work waits for it when asked to.
    Energy,
}

impl WindowKind {
    /// The word on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Maintenance => "maintenance",
            Self::Download => "download",
            Self::Energy => "energy",
        }
    }
}

/// A window that comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WindowSpec {
    pub kind: WindowKind,
    /// When it opens: minute, hour, day of month, month, day of week.
    #[cfg_attr(feature = "openapi", schema(example = "0 2 * * MON-FRI"))]
    pub cron: String,
    /// How long it stays open.
    pub duration_seconds: u32,
    /// An IANA zone. Without it: the zone of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(example = "Europe/Riga"))]
    pub time_zone: Option<String>,
}

/// Dates on which nothing is installed, the first and the last included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Blackout {
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = Date, example = "2026-12-20"))]
    pub from: Date,
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = Date, example = "2027-01-02"))]
    pub to: Date,
    /// An IANA zone. Without it: the zone of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// Whether heavy work waits for cheap hours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Energy {
    #[default]
    Any,
    /// Only inside a window of kind `energy`.
    OffHours,
}

impl Energy {
    /// Whether it is the default.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self == Self::Any
    }
}

/// A moment as people read it in messages: ISO 8601 in UTC, to the second.
#[must_use]
pub fn text(at: UnixMs) -> String {
    jiff::Timestamp::from_second(at.0.div_euclid(1000))
        .map_or_else(|_| "never".to_owned(), |at| at.to_string())
}

/// What is wrong with windows, blackouts and energy hours: the field as in JSON, and what to write instead.
#[must_use]
pub fn check(windows: &[WindowSpec], blackouts: &[Blackout], energy: Energy) -> Vec<(String, String)> {
    let mut errors = Vec::new();
    for (list, count) in [("windows", windows.len()), ("blackouts", blackouts.len())] {
        if count > MAX_WINDOWS {
            errors.push((list.to_owned(), format!("has at most {MAX_WINDOWS} entries, not {count}")));
        }
    }
    for (index, spec) in windows.iter().take(MAX_WINDOWS).enumerate() {
        let at = |field: &str| format!("windows[{index}].{field}");
        match Window::new(spec) {
            Err(problems) => errors.extend(problems.into_iter().map(|(field, text)| (at(field), text))),
            Ok(window) if !window.opens_every_year() => {
                let text = "does not open in every year: the date it names is missing in some or all of them";
                errors.push((at("cron"), text.to_owned()));
            }
            Ok(_) => {}
        }
    }
    for (index, blackout) in blackouts.iter().take(MAX_WINDOWS).enumerate() {
        let at = |field: &str| format!("blackouts[{index}].{field}");
        if blackout.to < blackout.from {
            errors.push((at("to"), format!("is the last day: write {} or a later date", blackout.from)));
        } else if (blackout.to - blackout.from).get_days() >= MAX_BLACKOUT_DAYS {
            errors.push((at("to"), format!("ends at most {MAX_BLACKOUT_DAYS} days after it began")));
        }
        errors.extend(zone_problem(blackout.time_zone.as_deref()).map(|text| (at("timeZone"), text)));
    }
    let is = |kind: WindowKind| move |window: &&WindowSpec| window.kind == kind;
    if energy == Energy::OffHours && !windows.iter().any(|window| is(WindowKind::Energy)(&window)) {
        let text =
            "off-hours needs a window of kind energy that says when energy is cheap; add one to windows";
        errors.push(("energy".to_owned(), text.to_owned()));
    }
    if errors.is_empty() && energy == Energy::OffHours && never_together(windows) {
        let text = "maintenance and energy windows are never open at the same time, so that nothing could ever be installed";
        errors.push(("windows".to_owned(), text.to_owned()));
    }
    errors
}

/// What is wrong with windows of which every opening within a year from `now` falls into a blackout. Where zones differ nobody can tell for every
/// device.
#[must_use]
pub fn check_openings(
    windows: &[WindowSpec],
    blackouts: &[Blackout],
    energy: Energy,
    now: UnixMs,
) -> Option<(String, String)> {
    if blackouts.is_empty() {
        return None;
    }
    let bound = windows.iter().filter(|window| window.kind != WindowKind::Download);
    let zones =
        bound.map(|window| &window.time_zone).chain(blackouts.iter().map(|blackout| &blackout.time_zone));
    let mut zones: Vec<_> = zones.collect();
    zones.dedup();
    let [zone] = zones[..] else { return None };
    let zone = Zone::of_device(zone.as_deref());
    let calendar = Calendar::new(windows, blackouts, energy).ok()?;
    let mut moves = MOVES_TO_REFUSE;
    Calendar::never_meet(&[&calendar], Purpose::Install, &zone, now, &mut moves).then(|| {
        let of = if windows.is_empty() {
            "all of the next 366 days"
        } else {
            "every opening of the windows in the next 366 days"
        };
        (
            "blackouts".to_owned(),
            format!("cover {of}, so that nothing could ever be installed; leave some time between them"),
        )
    })
}

/// Whether maintenance and energy windows of one and the same zone never overlap. Where zones differ nobody can tell for every device.
fn never_together(windows: &[WindowSpec]) -> bool {
    let bound = windows.iter().filter(|window| window.kind != WindowKind::Download);
    let mut zones: Vec<_> = bound.map(|window| &window.time_zone).collect();
    zones.dedup();
    let Ok(calendar) = Calendar::new(windows, &[], Energy::OffHours) else { return false };
    zones.len() == 1
        && matches!(
            calendar.look(Purpose::Install, &Zone::utc(), window::REFERENCE, window::REFERENCE),
            Look::Shut { next: None, .. }
        )
}

fn zone_problem(name: Option<&str>) -> Option<String> {
    let name = name?;
    Zone::named(name).is_none().then(|| {
        let shown: String = name.chars().take(64).collect();
        format!("{shown:?} is no IANA zone; write for example Europe/Riga or UTC")
    })
}
