//! Windows, blackouts and energy hours together: may it be done now, until when, and if not, when?

use super::window::{self, YEAR_MS};
use super::{Blackout, Energy, Window, WindowKind, WindowSpec, Zone};
use crate::time::UnixMs;
use jiff::civil::Date;

/// How often a search moves on to a later moment before it gives up.
const MAX_MOVES: usize = 1_000;
/// The same where something is refused: a year of nightly windows takes 366 of them, of hourly ones 9,000.
pub const MOVES_TO_REFUSE: usize = 50_000;

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Activate a release: inside a maintenance window if there are any, in cheap hours if asked for, on no blackout date.
    Install,
    /// Begin a download: inside a download window if there are any.
    Download,
}

/// What keeps a calendar shut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shut {
    Window(WindowKind),
    Blackout,
}

/// What a calendar says of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Open until then; nobody looked beyond the horizon.
    Open { until: UnixMs },
    /// `next` is when everything is open; none when that is not within a year.
    Shut { next: Option<UnixMs>, by: Shut },
}

/// Everything that says when, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Calendar {
    maintenance: Vec<Window>,
    download: Vec<Window>,
    energy: Vec<Window>,
    off_hours: bool,
    /// First day, the day after the last, and the zone if it has its own.
    blackouts: Vec<(Date, Date, Option<Zone>)>,
}

/// One condition; all that apply must hold.
#[derive(Clone, Copy)]
enum Part<'a> {
    AnyOf(WindowKind, &'a [Window]),
    Outside(&'a [(Date, Date, Option<Zone>)]),
}

impl Calendar {
    /// Of windows and blackouts that [`super::check`] finds nothing wrong with; otherwise its first errors.
    pub fn new(
        windows: &[WindowSpec],
        blackouts: &[Blackout],
        energy: Energy,
    ) -> Result<Self, Vec<(&'static str, String)>> {
        let mut calendar = Self { off_hours: energy == Energy::OffHours, ..Self::default() };
        for spec in windows {
            let window = Window::new(spec)?;
            match spec.kind {
                WindowKind::Maintenance => calendar.maintenance.push(window),
                WindowKind::Download => calendar.download.push(window),
                WindowKind::Energy => calendar.energy.push(window),
            }
        }
        for blackout in blackouts {
            let zone = blackout.time_zone.as_deref().and_then(Zone::named);
            let after = blackout.to.tomorrow().unwrap_or(blackout.to);
            calendar.blackouts.push((blackout.from, after, zone));
        }
        Ok(calendar)
    }

    /// Whether it never shuts for this purpose.
    #[must_use]
    pub fn is_always_open(&self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Install => self.maintenance.is_empty() && !self.off_hours && self.blackouts.is_empty(),
            Purpose::Download => self.download.is_empty(),
        }
    }

    fn parts(&self, purpose: Purpose) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        match purpose {
            Purpose::Install => {
                if !self.maintenance.is_empty() {
                    parts.push(Part::AnyOf(WindowKind::Maintenance, &self.maintenance));
                }
                if self.off_hours {
                    parts.push(Part::AnyOf(WindowKind::Energy, &self.energy));
                }
                if !self.blackouts.is_empty() {
                    parts.push(Part::Outside(&self.blackouts));
                }
            }
            Purpose::Download if !self.download.is_empty() => {
                parts.push(Part::AnyOf(WindowKind::Download, &self.download));
            }
            Purpose::Download => {}
        }
        parts
    }

    /// What it says to a device in `zone`. Openings are followed up to `horizon`.
    #[must_use]
    pub fn look(&self, purpose: Purpose, zone: &Zone, at: UnixMs, horizon: UnixMs) -> Look {
        Self::look_at_all(&[self], purpose, zone, at, horizon).0
    }

    /// What several calendars say together: open where all are. The number is the one that keeps it shut.
    #[must_use]
    pub fn look_at_all(
        calendars: &[&Self],
        purpose: Purpose,
        zone: &Zone,
        at: UnixMs,
        horizon: UnixMs,
    ) -> (Look, usize) {
        let count = |calendar: &&Self| calendar.parts(purpose).len();
        let owners: Vec<usize> = calendars
            .iter()
            .enumerate()
            .flat_map(|(number, calendar)| std::iter::repeat_n(number, count(calendar)))
            .collect();
        let parts: Vec<_> = calendars.iter().flat_map(|calendar| calendar.parts(purpose)).collect();
        let mut until = horizon.max(at);
        for (part, owner) in parts.iter().zip(owners) {
            match part.closes(at, zone, horizon) {
                Some(end) => until = until.min(end),
                None => return (Look::Shut { next: next_open(&parts, at, zone), by: part.shut() }, owner),
            }
        }
        (Look::Open { until }, 0)
    }

    /// Whether they are never all open at one moment within a year. Looking takes `moves`; where they do not suffice, nobody can tell: no.
    #[must_use]
    pub fn never_meet(
        calendars: &[&Self],
        purpose: Purpose,
        zone: &Zone,
        at: UnixMs,
        moves: &mut usize,
    ) -> bool {
        let parts: Vec<_> = calendars.iter().flat_map(|calendar| calendar.parts(purpose)).collect();
        matches!(search(&parts, at, zone, moves), Found::Never)
    }
}

/// What became of a search.
enum Found {
    At(UnixMs),
    /// Not within a year.
    Never,
    /// It took too many moves.
    GivenUp,
}

/// Looks for the first moment from `at` on at which every part is open.
fn search(parts: &[Part<'_>], at: UnixMs, zone: &Zone, moves: &mut usize) -> Found {
    let mut moment = at;
    while let Some(left) = moves.checked_sub(1) {
        *moves = left;
        let before = moment;
        for part in parts {
            let Some(next) = part.next_open(moment, zone) else { return Found::Never };
            moment = next;
        }
        if moment == before {
            return Found::At(moment);
        }
        if moment.since_ms(at) > YEAR_MS {
            return Found::Never;
        }
    }
    Found::GivenUp
}

fn next_open(parts: &[Part<'_>], at: UnixMs, zone: &Zone) -> Option<UnixMs> {
    let mut moves = MAX_MOVES;
    match search(parts, at, zone, &mut moves) {
        Found::At(moment) => Some(moment),
        Found::Never | Found::GivenUp => None,
    }
}

impl Part<'_> {
    fn shut(&self) -> Shut {
        match self {
            Part::AnyOf(kind, _) => Shut::Window(*kind),
            Part::Outside(_) => Shut::Blackout,
        }
    }

    fn closes(&self, at: UnixMs, zone: &Zone, horizon: UnixMs) -> Option<UnixMs> {
        match self {
            Part::AnyOf(_, windows) => window::closes(windows, at, zone, horizon),
            Part::Outside(blackouts) => {
                if blackouts.iter().any(|blackout| is_within(blackout, at, zone)) {
                    return None;
                }
                let next = blackouts.iter().filter_map(|blackout| Some(bounds(blackout, zone)?.0));
                Some(
                    next.filter(|start| *start > at)
                        .min()
                        .map_or(horizon, |start| start.min(horizon))
                        .max(at),
                )
            }
        }
    }

    fn next_open(&self, at: UnixMs, zone: &Zone) -> Option<UnixMs> {
        match self {
            Part::AnyOf(_, windows) => windows.iter().filter_map(|window| window.next_open(at, zone)).min(),
            Part::Outside(blackouts) => {
                let now = blackouts.iter().filter(|blackout| is_within(blackout, at, zone));
                Some(now.filter_map(|blackout| Some(bounds(blackout, zone)?.1)).max().unwrap_or(at))
            }
        }
    }
}

/// The first moment of a blackout and the first after it.
fn bounds((from, after, own): &(Date, Date, Option<Zone>), zone: &Zone) -> Option<(UnixMs, UnixMs)> {
    let tz = own.as_ref().unwrap_or(zone).tz();
    let moment =
        |date: &Date| date.to_zoned(tz.clone()).ok().map(|at| UnixMs(at.timestamp().as_millisecond()));
    Some((moment(from)?, moment(after)?))
}

/// A date that no calendar can place counts as within: what can't be checked stays shut.
fn is_within(blackout: &(Date, Date, Option<Zone>), at: UnixMs, zone: &Zone) -> bool {
    bounds(blackout, zone).is_none_or(|(start, end)| start <= at && at < end)
}
