//! Devices by id, made for looking them all up in order, as each decision does several times.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::view::DeviceView;
use crate::id::DeviceId;

/// A map from id to device. Looking up one id after another in ascending order costs nothing; any other lookup is a binary search.
#[derive(Debug, Default)]
pub(super) struct Roster {
    devices: Vec<DeviceView>,
    /// Where the next lookup is likely to be. Only a guess: a wrong one costs a search.
    next: AtomicUsize,
}

impl Roster {
    pub(super) fn get(&self, id: &DeviceId) -> Option<&DeviceView> {
        let guess = self.next.load(Ordering::Relaxed);
        if let Some(device) = self.devices.get(guess)
            && device.id == *id
        {
            self.next.store(guess + 1, Ordering::Relaxed);
            return Some(device);
        }
        let place = self.find(id);
        self.next.store(place.map_or_else(|place| place, |place| place + 1), Ordering::Relaxed);
        place.ok().and_then(|place| self.devices.get(place))
    }

    fn find(&self, id: &DeviceId) -> Result<usize, usize> {
        self.devices.binary_search_by(|device| device.id.cmp(id))
    }

    pub(super) fn get_mut(&mut self, id: &DeviceId) -> Option<&mut DeviceView> {
        self.find(id).ok().and_then(|place| self.devices.get_mut(place))
    }

    pub(super) fn insert(&mut self, id: DeviceId, device: DeviceView) {
        match self.find(&id) {
            Ok(place) => {
                if let Some(known) = self.devices.get_mut(place) {
                    *known = device;
                }
            }
            Err(place) => self.devices.insert(place, device),
        }
    }

    pub(super) fn remove(&mut self, id: &DeviceId) -> Option<DeviceView> {
        self.find(id).ok().map(|place| self.devices.remove(place))
    }

    /// All devices, by id.
    pub(super) fn values(&self) -> impl Iterator<Item = &DeviceView> {
        self.devices.iter()
    }

    pub(super) const fn len(&self) -> usize {
        self.devices.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }
}

impl Clone for Roster {
    fn clone(&self) -> Self {
        Self { devices: self.devices.clone(), next: AtomicUsize::new(0) }
    }
}

impl PartialEq for Roster {
    fn eq(&self, other: &Self) -> bool {
        self.devices == other.devices
    }
}

impl Eq for Roster {}

impl FromIterator<(DeviceId, DeviceView)> for Roster {
    /// Of two with one id the later one counts.
    fn from_iter<I: IntoIterator<Item = (DeviceId, DeviceView)>>(devices: I) -> Self {
        let mut sorted: Vec<DeviceView> = devices.into_iter().map(|(_, device)| device).collect();
        // Stable, then the last of equals is kept.
        sorted.sort_by_key(|device| device.id);
        sorted.reverse();
        sorted.dedup_by_key(|device| device.id);
        sorted.reverse();
        Self { devices: sorted, next: AtomicUsize::new(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;
    use uuid::Uuid;

    fn id(number: u32) -> DeviceId {
        DeviceId(Uuid::from_u128(u128::from(number)))
    }

    fn device(number: u32, name: &str) -> (DeviceId, DeviceView) {
        (id(number), DeviceView::new(id(number), Name::new(name).unwrap()))
    }

    #[test]
    fn every_order_of_lookups_finds_the_same() {
        let mut roster: Roster = [5, 1, 3, 9].map(|number| device(number, "kiosk")).into_iter().collect();
        for number in [1, 3, 5, 9, 3, 9, 1, 2, 3, 10, 5, 0, 1] {
            let known = [1, 3, 5, 9].contains(&number);
            assert_eq!(
                roster.get(&id(number)).map(|device| device.id),
                known.then(|| id(number)),
                "{number}"
            );
        }
        roster.insert(id(4), device(4, "late").1);
        assert!(roster.remove(&id(1)).is_some() && roster.remove(&id(1)).is_none());
        let order: Vec<_> = roster.values().map(|device| device.id).collect();
        assert_eq!(order, [3, 4, 5, 9].map(id));
        assert!(order.iter().all(|id| roster.get(id).is_some()));
        assert_eq!(roster.clone(), roster);
    }

    #[test]
    fn the_later_of_two_with_one_id_counts() {
        let mut roster: Roster = [device(1, "old"), device(2, "x"), device(1, "new")].into_iter().collect();
        assert_eq!((roster.len(), roster.get(&id(1)).unwrap().name.to_string()), (2, "new".to_owned()));
        roster.insert(id(1), device(1, "newer").1);
        assert_eq!((roster.len(), roster.get(&id(1)).unwrap().name.to_string()), (2, "newer".to_owned()));
    }
}
