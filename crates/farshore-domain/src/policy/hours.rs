//! When a device may fetch and install, as its policies say.

use super::{Effective, ScheduleRules};
use crate::name::Name;
use crate::schedule::{Calendar, Purpose, Shut, Zone};
use crate::time::UnixMs;

/// The windows and blackouts of one device's effective policy, ready to be asked.
#[derive(Clone, Debug)]
pub struct DeviceHours {
    rules: ScheduleRules,
    /// None where they can't be read: shut, for what can't be checked must not happen.
    calendar: Option<Calendar>,
    windows: Option<Name>,
    blackouts: Option<Name>,
}

impl PartialEq for DeviceHours {
    fn eq(&self, other: &Self) -> bool {
        (&self.rules, &self.windows, &self.blackouts) == (&other.rules, &other.windows, &other.blackouts)
    }
}

impl DeviceHours {
    /// None where no policy says anything.
    #[must_use]
    pub fn of(effective: &Effective) -> Option<Self> {
        let from = |path: &str| effective.provenance.get(path).map(|from| from.policy.clone());
        let hours = Self::new(effective.rules.schedule.clone())?;
        Some(Self { windows: from("schedule.windows"), blackouts: from("schedule.blackouts"), ..hours })
    }

    /// Of rules whose policies nobody knows: on the device.
    #[must_use]
    pub fn new(rules: ScheduleRules) -> Option<Self> {
        if rules.is_empty() {
            return None;
        }
        let windows = rules.windows.as_deref().unwrap_or_default();
        let blackouts = rules.blackouts.as_deref().unwrap_or_default();
        let calendar = Calendar::new(windows, blackouts, rules.energy.unwrap_or_default()).ok();
        Some(Self { rules, calendar, windows: None, blackouts: None })
    }

    /// None where it can't be read.
    #[must_use]
    pub fn calendar(&self) -> Option<&Calendar> {
        self.calendar.as_ref()
    }

    /// Whether nothing can be fetched, or nothing installed, within a year. `moves` is what looking may take.
    #[must_use]
    pub fn never_opens(&self, zone: &Zone, now: UnixMs, moves: &mut usize) -> bool {
        let Some(calendar) = &self.calendar else { return true };
        [Purpose::Install, Purpose::Download]
            .into_iter()
            .any(|purpose| Calendar::never_meet(&[calendar], purpose, zone, now, moves))
    }

    /// The policy that keeps it shut.
    #[must_use]
    pub fn whose(&self, shut: Shut) -> Option<&Name> {
        match shut {
            Shut::Window(_) => self.windows.as_ref(),
            Shut::Blackout => self.blackouts.as_ref(),
        }
    }
}
