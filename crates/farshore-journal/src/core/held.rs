//! Segments and batches of a stream that take no more points, with their sums.
//!
//! The sums follow each change, so that a commit costs the same whatever lies on the disk.

use std::collections::{BTreeMap, BTreeSet};

use super::{Kept, Sealed};

#[derive(Debug, Default)]
pub(super) struct Held {
    closed: BTreeMap<u64, Kept>,
    sealed: BTreeMap<u64, Sealed>,
    bytes: u64,
    points: u64,
    /// Earliest time of each that has points, with its number and whether it is sealed.
    earliest: BTreeSet<(i64, u64, bool)>,
}

impl Held {
    /// Segments that are not sealed yet.
    pub(super) fn closed(&self) -> &BTreeMap<u64, Kept> {
        &self.closed
    }

    pub(super) fn sealed(&self) -> &BTreeMap<u64, Sealed> {
        &self.sealed
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn points(&self) -> u64 {
        self.points
    }

    pub(super) fn count(&self) -> u64 {
        (self.closed.len() + self.sealed.len()) as u64
    }

    pub(super) fn oldest_ns(&self) -> Option<i64> {
        self.earliest.first().map(|(at, _, _)| *at)
    }

    /// The lowest number that is still held.
    pub(super) fn first(&self) -> Option<u64> {
        let (closed, sealed) = (self.closed.keys().next(), self.sealed.keys().next());
        closed.into_iter().chain(sealed).min().copied()
    }

    pub(super) fn contains(&self, sequence: u64) -> bool {
        self.closed.contains_key(&sequence) || self.sealed.contains_key(&sequence)
    }

    pub(super) fn insert_closed(&mut self, sequence: u64, kept: Kept) {
        self.remove_closed(sequence);
        self.count_in(sequence, kept, false);
        self.closed.insert(sequence, kept);
    }

    pub(super) fn remove_closed(&mut self, sequence: u64) {
        if let Some(kept) = self.closed.remove(&sequence) {
            self.count_out(sequence, kept, false);
        }
    }

    pub(super) fn insert_sealed(&mut self, sequence: u64, sealed: Sealed) {
        self.remove_sealed(sequence);
        self.count_in(sequence, sealed.kept, true);
        self.sealed.insert(sequence, sealed);
    }

    pub(super) fn remove_sealed(&mut self, sequence: u64) {
        if let Some(sealed) = self.sealed.remove(&sequence) {
            self.count_out(sequence, sealed.kept, true);
        }
    }

    /// Says whether a batch is on its way.
    pub(super) fn set_in_flight(&mut self, sequence: u64, in_flight: bool) {
        if let Some(sealed) = self.sealed.get_mut(&sequence) {
            sealed.in_flight = in_flight;
        }
    }

    /// None is on its way any more.
    pub(super) fn land_all(&mut self) {
        for sealed in self.sealed.values_mut() {
            sealed.in_flight = false;
        }
    }

    fn count_in(&mut self, sequence: u64, kept: Kept, sealed: bool) {
        self.bytes += kept.bytes;
        self.points += u64::from(kept.span.points);
        if kept.span.points > 0 {
            self.earliest.insert((kept.span.earliest_ns, sequence, sealed));
        }
    }

    fn count_out(&mut self, sequence: u64, kept: Kept, sealed: bool) {
        self.bytes = self.bytes.saturating_sub(kept.bytes);
        self.points = self.points.saturating_sub(u64::from(kept.span.points));
        self.earliest.remove(&(kept.span.earliest_ns, sequence, sealed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Span;

    #[test]
    fn the_sums_are_those_of_what_is_there() {
        let kept = |bytes, points, earliest_ns| {
            Kept::new(bytes, Span { points, earliest_ns, latest_ns: earliest_ns + 1 })
        };
        let sealed = |kept| Sealed { name: String::new(), kept, thinned: false, in_flight: false };
        let mut held = Held::default();
        held.insert_closed(1, kept(10, 1, 5));
        held.insert_closed(2, kept(20, 2, 3));
        assert_eq!((held.bytes(), held.points(), held.count(), held.oldest_ns()), (30, 3, 2, Some(3)));
        // A segment and what became of it are both there for a moment.
        held.insert_sealed(2, sealed(kept(8, 2, 3)));
        held.remove_closed(2);
        held.remove_closed(2);
        assert_eq!((held.bytes(), held.points(), held.count(), held.oldest_ns()), (18, 3, 2, Some(3)));
        held.insert_sealed(2, sealed(kept(4, 1, 4)));
        assert_eq!((held.bytes(), held.points(), held.oldest_ns(), held.first()), (14, 2, Some(4), Some(1)));
        held.remove_sealed(2);
        held.remove_closed(1);
        assert_eq!((held.bytes(), held.points(), held.count(), held.oldest_ns()), (0, 0, 0, None));
    }
}
