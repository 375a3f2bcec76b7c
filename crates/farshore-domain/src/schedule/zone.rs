//! Time zones by their IANA names, from data that is built in.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};

use crate::time::UnixMs;

/// Built in; never the machine's own files, so that every machine decides the same.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// What a label value may look like, and the zone it means.
static BY_LABEL: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    ZONES.available().map(|name| (name.as_str().replace('/', "_"), name.as_str().to_owned())).collect()
});

/// A time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    #[must_use]
    pub const fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// The zone of an IANA name such as `Europe/Riga`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        if name == "UTC" { Some(Self::utc()) } else { ZONES.get(name).ok().map(Self) }
    }

    /// The zone of a device: `name`, or UTC when there is none or nobody knows it.
    #[must_use]
    pub fn of_device(name: Option<&str>) -> Self {
        name.and_then(Self::named).unwrap_or_else(Self::utc)
    }

    /// The IANA name that a label value means. Label values have no `/`: `America_New_York` is `America/New_York`.
    #[must_use]
    pub fn name_of_label(value: &str) -> Option<&'static str> {
        BY_LABEL.get(value).map(String::as_str)
    }

    /// The minute of the day on the wall clock, 0 to 1,439; none outside the years that calendars cover.
    #[must_use]
    pub fn minute_of_day(&self, at: UnixMs) -> Option<u16> {
        let at = self.at(at)?;
        Some(u16::from(at.hour().unsigned_abs()) * 60 + u16::from(at.minute().unsigned_abs()))
    }

    pub(super) const fn tz(&self) -> &TimeZone {
        &self.0
    }

    /// The wall clock at this moment; none outside the years that calendars cover.
    pub(super) fn at(&self, at: UnixMs) -> Option<Zoned> {
        Timestamp::from_millisecond(at.0).ok().map(|at| at.to_zoned(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_found_by_name_and_by_label() {
        assert!(Zone::named("Europe/Riga").is_some());
        assert!(Zone::named("Europe/Atlantis").is_none());
        assert_eq!(Zone::name_of_label("America_New_York"), Some("America/New_York"));
        assert_eq!(
            Zone::name_of_label("America_Argentina_Buenos_Aires"),
            Some("America/Argentina/Buenos_Aires")
        );
        assert_eq!(Zone::name_of_label("UTC"), Some("UTC"));
        assert_eq!(Zone::name_of_label("Mars"), None);
        assert_eq!(Zone::of_device(Some("Mars")), Zone::utc());
    }
}
