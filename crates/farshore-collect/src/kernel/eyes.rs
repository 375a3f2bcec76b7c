//! Reads what the programs write.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use aya::maps::{Array, HashMap, Map, MapData, MapError, RingBuf};

use super::counts::{BUCKETS, Counts, Destination, Latency};
use super::event::{Event, Kind, address};

/// More destinations than this are not told.
const MOST_DESTINATIONS: usize = 16;

/// Why the programs can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the programs' {what} can't be read")]
pub struct EyesError {
    what: &'static str,
    #[source]
    source: MapError,
}

fn bad(what: &'static str) -> impl FnOnce(MapError) -> EyesError {
    move |source| EyesError { what, source }
}

/// The ring buffer and the counters. While it lives, the programs are attached.
pub struct Eyes {
    ring: RingBuf<MapData>,
    totals: Array<MapData, u64>,
    destinations: HashMap<MapData, [u8; 24], u64>,
    latency: Array<MapData, u64>,
    _links: Vec<OwnedFd>,
}

impl std::fmt::Debug for Eyes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Eyes").finish_non_exhaustive()
    }
}

impl AsRawFd for Eyes {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl AsFd for Eyes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Eyes {
    /// Takes the descriptors of [`Loaded`](super::Loaded). Needs CAP_BPF where the kernel asks it for looking at maps.
    ///
    /// # Errors
    /// When they are no such maps, or may not be looked at.
    pub fn new(maps: [OwnedFd; 4], links: Vec<OwnedFd>) -> Result<Self, EyesError> {
        let [ring, totals, destinations, latency] = maps;
        let ring = MapData::from_fd(ring).map_err(bad("ring buffer"))?;
        let totals = MapData::from_fd(totals).map_err(bad("totals"))?;
        let destinations = MapData::from_fd(destinations).map_err(bad("destinations"))?;
        let latency = MapData::from_fd(latency).map_err(bad("latencies"))?;
        Ok(Self {
            ring: RingBuf::try_from(Map::RingBuf(ring)).map_err(bad("ring buffer"))?,
            totals: Array::try_from(Map::Array(totals)).map_err(bad("totals"))?,
            destinations: HashMap::try_from(Map::LruHashMap(destinations)).map_err(bad("destinations"))?,
            latency: Array::try_from(Map::Array(latency)).map_err(bad("latencies"))?,
            _links: links,
        })
    }

    /// The next event; `None` when there is none now. The descriptor is readable while there are some.
    pub fn take(&mut self) -> Option<Event> {
        loop {
            let record = self.ring.next()?;
            if let Some(event) = Event::parse(&record) {
                return Some(event);
            }
        }
    }

    /// Everything that was counted since the programs were loaded.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn counts(&self, io_latency: bool) -> Result<Counts, EyesError> {
        let (mut seen, mut unsent) = (BTreeMap::new(), BTreeMap::new());
        for (index, kind) in (0..).zip(Kind::ALL) {
            seen.insert(kind, self.totals.get(&(2 * index), 0).map_err(bad("totals"))?);
            unsent.insert(kind, self.totals.get(&(2 * index + 1), 0).map_err(bad("totals"))?);
        }
        let mut destinations: Vec<Destination> = self
            .destinations
            .iter()
            // One that is forgotten while it is read is no error.
            .filter_map(Result::ok)
            .filter_map(|(key, segments)| Some(Destination { peer: peer(&key)?, segments }))
            .collect();
        destinations.sort_by_key(|destination| std::cmp::Reverse((destination.segments, destination.peer)));
        destinations.truncate(MOST_DESTINATIONS);
        let latency = if io_latency { Some(self.latency()?) } else { None };
        Ok(Counts { seen, unsent, destinations, latency })
    }

    fn latency(&self) -> Result<Latency, EyesError> {
        let at = |index: usize| {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            self.latency.get(&index, 0).map_err(bad("latencies"))
        };
        let buckets = (0..BUCKETS).map(at).collect::<Result<Vec<u64>, EyesError>>()?;
        Ok(Latency { buckets, sum_us: at(BUCKETS)?, count: at(BUCKETS + 1)? })
    }
}

/// The key of the map `destinations`: 16 bytes of address, family, port.
fn peer(key: &[u8; 24]) -> Option<std::net::SocketAddr> {
    let family = u16::from_ne_bytes(key.get(16..18)?.try_into().ok()?);
    let port = u16::from_ne_bytes(key.get(18..20)?.try_into().ok()?);
    address(family, port, key.get(..16)?.try_into().ok()?)
}
