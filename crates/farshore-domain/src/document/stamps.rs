//! When each leaf of a document was written last, and by whom.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Hlc, path};

/// Most leaves with a time of their own; beyond that the oldest share one.
const MAX_STAMPS: usize = 6_000;
/// Most bytes of their pointers: those of a document, and of what was deleted from it before.
const MAX_PLACES: usize = 2 * super::MAX_PLACES_BYTES;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Stamp {
    /// Unix milliseconds and a counter, `milliseconds.count`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub at: Hlc,
    /// `device`, or who acted in the cloud.
    pub by: String,
}

/// The last write of each leaf, by pointer; what was deleted has one, too. The one at a place counts for everything in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamps(pub BTreeMap<String, Stamp>);

impl Stamps {
    /// Notes a write at a place.
    pub fn note(&mut self, at: &str, stamp: Stamp) {
        let mut inside = String::with_capacity(at.len() + 1);
        inside.push_str(at);
        inside.push('/');
        let within: Vec<String> = self
            .0
            .range(inside.clone()..)
            .map(|(place, _)| place)
            .take_while(|place| place.starts_with(&inside))
            .cloned()
            .collect();
        for place in within {
            self.0.remove(&place);
        }
        self.0.insert(at.to_owned(), stamp);
        if self.0.len() > MAX_STAMPS {
            self.fold();
        }
    }

    /// Keeps the bytes of the places bounded, after writes were noted.
    pub(super) fn fit(&mut self) {
        while self.0.len() > 1 && self.0.keys().map(String::len).sum::<usize>() > MAX_PLACES {
            self.fold();
        }
    }

    /// The older half, and what is as old as its newest, becomes one stamp of the whole document: the newest of them, which is older than any that stays.
    fn fold(&mut self) {
        let mut times: Vec<Hlc> = self.0.values().map(|stamp| stamp.at).collect();
        times.sort_unstable();
        let Some(middle) = times.get(times.len() / 2).copied() else { return };
        let newest = self.0.values().filter(|stamp| stamp.at <= middle).max().cloned();
        self.0.retain(|_, stamp| stamp.at > middle);
        if let Some(newest) = newest {
            self.0.entry(String::new()).or_insert(newest);
        }
    }

    /// The last write at a place, in it, or of something that it is in.
    #[must_use]
    pub fn latest(&self, at: &str) -> Option<&Stamp> {
        let around = self.0.iter().filter(|(place, _)| path::within(at, place) || path::within(place, at));
        around.map(|(_, stamp)| stamp).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(ms: i64) -> Stamp {
        Stamp { at: Hlc { ms, count: 0 }, by: "x".to_owned() }
    }

    #[test]
    fn a_write_counts_for_what_is_in_it() {
        let mut stamps = Stamps::default();
        stamps.note("/a/b", stamp(1));
        stamps.note("/a/c", stamp(2));
        stamps.note("/ab", stamp(3));
        assert_eq!(stamps.latest("/a").unwrap(), &stamp(2));
        assert_eq!(stamps.latest("").unwrap(), &stamp(3));
        stamps.note("/a", stamp(4));
        assert_eq!(stamps.0.len(), 2);
        assert_eq!(stamps.latest("/a/b/deep").unwrap(), &stamp(4));
        assert_eq!(stamps.latest("/z"), None);
    }

    #[test]
    fn many_leaves_share_the_oldest_time() {
        let mut stamps = Stamps::default();
        for n in 0..10_000 {
            stamps.note(&format!("/{n}"), stamp(n));
        }
        assert!(stamps.0.len() <= MAX_STAMPS);
        assert_eq!(stamps.latest("/9999").unwrap(), &stamp(9_999));
        assert!(stamps.latest("/0").unwrap().at < Hlc { ms: 9_000, count: 0 });
    }

    #[test]
    fn leaves_that_were_written_at_once_and_long_ones_share_a_time_too() {
        let mut stamps = Stamps::default();
        for n in 0..10_000 {
            stamps.note(&format!("/{n}"), stamp(7));
        }
        assert!(stamps.0.len() <= MAX_STAMPS);
        assert_eq!(stamps.latest("/0").unwrap(), &stamp(7));
        let mut stamps = Stamps::default();
        for n in 0..5_000 {
            stamps.note(&format!("/{}/{n}", "k".repeat(1_000)), stamp(n));
        }
        stamps.fit();
        assert!(stamps.0.keys().map(String::len).sum::<usize>() <= MAX_PLACES);
        assert_eq!(stamps.0.values().max().unwrap(), &stamp(4_999));
    }
}
