//! The bodies of batches while they arrive: how much of them is in memory, by device and tenant, and how slow they may be.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_trust::sealed::MAX_BATCH_BYTES;
use http_body_util::BodyExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes of bodies in memory at once.
const ALL: usize = 512 * 1024 * 1024;
/// Of these, so many of one device: a batch of the largest size, and some more.
const OF_DEVICE: usize = MAX_BATCH_BYTES + 16 * 1024 * 1024;
/// So many batches of one device arrive at once.
const BATCHES: usize = 4;
/// How long one waits for room.
const PATIENCE: Duration = Duration::from_secs(5);

/// How slow a body may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// For any body.
    base: Duration,
    /// Beyond that, as long as its bytes take at this pace.
    bytes_per_second: u64,
    /// But no longer than this.
    longest: Duration,
    /// Within this time more of it comes.
    progress: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(120),
            bytes_per_second: 2_000,
            longest: Duration::from_secs(2 * 60 * 60),
            progress: Duration::from_secs(30),
        }
    }
}

impl Pace {
    fn whole(&self, length: usize) -> Duration {
        (self.base + Duration::from_secs(length as u64 / self.bytes_per_second.max(1))).min(self.longest)
    }
}

/// Why a body did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The sender ended it, or sent more than it said.
    Off,
    Slow,
    NoRoom,
}

/// Room for bodies.
#[derive(Debug)]
pub(super) struct Bodies(Arc<Shares>);

impl Default for Bodies {
    fn default() -> Self {
        Self::new(ALL, OF_DEVICE, PATIENCE)
    }
}

#[derive(Debug)]
struct Shares {
    all: usize,
    of_device: usize,
    patience: Duration,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    bytes: usize,
    tenants: HashMap<TenantId, OfTenant>,
}

#[derive(Debug, Default)]
struct OfTenant {
    bytes: usize,
    devices: HashMap<DeviceId, OfDevice>,
}

#[derive(Debug, Default)]
struct OfDevice {
    batches: usize,
    bytes: usize,
}

impl Shares {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it goes; `false`: it did not.
    async fn wait(&self, goes: impl Fn(&mut Taken) -> bool) -> bool {
        let waiting = async {
            loop {
                let freed = self.freed.notified();
                tokio::pin!(freed);
                // From here on nothing that is freed is missed.
                freed.as_mut().enable();
                if goes(&mut self.lock()) {
                    return;
                }
                freed.await;
            }
        };
        tokio::time::timeout(self.patience, waiting).await.is_ok()
    }
}

impl Bodies {
    fn new(all: usize, of_device: usize, patience: Duration) -> Self {
        let (taken, freed) = Default::default();
        Self(Arc::new(Shares { all, of_device, patience, taken, freed }))
    }

    /// A place for one more batch of a device; `None`: too many of it are under way.
    pub(super) async fn begin(&self, tenant: TenantId, device: DeviceId) -> Option<Held> {
        let goes = |taken: &mut Taken| {
            let of = taken.tenants.entry(tenant).or_default().devices.entry(device).or_default();
            let goes = of.batches < BATCHES;
            of.batches += usize::from(goes);
            goes
        };
        let shares = Arc::clone(&self.0);
        let goes = self.0.wait(goes).await;
        goes.then(|| Held { shares, tenant, device, bytes: 0 })
    }
}

/// What one batch has of the room, until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    shares: Arc<Shares>,
    tenant: TenantId,
    device: DeviceId,
    bytes: usize,
}

impl Held {
    /// A tenant has at most half of what the others leave, and a device half of what its tenant's others leave: there is always some left.
    async fn more(&mut self, bytes: usize) -> bool {
        let (all, most) = (self.shares.all, self.shares.of_device);
        let (tenant, device) = (self.tenant, self.device);
        let goes = |taken: &mut Taken| {
            let of_tenant = taken.tenants.entry(tenant).or_default();
            let of_device = of_tenant.devices.entry(device).or_default();
            let tenants_share = all.saturating_sub(taken.bytes.saturating_sub(of_tenant.bytes)) / 2;
            let tenants_others = of_tenant.bytes.saturating_sub(of_device.bytes);
            let share = most.min(tenants_share.saturating_sub(tenants_others) / 2);
            let goes = of_device.bytes.saturating_add(bytes) <= share;
            if goes {
                taken.bytes += bytes;
                of_tenant.bytes += bytes;
                of_device.bytes += bytes;
            }
            goes
        };
        let goes = self.shares.wait(goes).await;
        self.bytes += if goes { bytes } else { 0 };
        goes
    }

    /// Reads a body of this length, taking room as it comes.
    pub(super) async fn read(
        &mut self,
        mut body: Body,
        length: usize,
        pace: Pace,
    ) -> Result<Vec<u8>, Broken> {
        let end = Instant::now() + pace.whole(length);
        let mut read = Vec::new();
        loop {
            let next = end.min(Instant::now() + pace.progress);
            let frame = match tokio::time::timeout_at(next, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) if read.len() == length => return Ok(read),
                Ok(_) => return Err(Broken::Off),
                Err(_) => return Err(Broken::Slow),
            };
            // What is no data ends it, and says nothing more.
            let Ok(data) = frame.into_data() else { continue };
            if data.len() > length.saturating_sub(read.len()) {
                return Err(Broken::Off);
            }
            if !self.more(data.len()).await {
                return Err(Broken::NoRoom);
            }
            read.extend_from_slice(&data);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut taken = self.shares.lock();
        taken.bytes -= self.bytes;
        if let Some(of_tenant) = taken.tenants.get_mut(&self.tenant) {
            of_tenant.bytes -= self.bytes;
            if let Some(of_device) = of_tenant.devices.get_mut(&self.device) {
                of_device.bytes -= self.bytes;
                of_device.batches -= 1;
            }
            // Those that hold nothing any more are forgotten.
            of_tenant.devices.retain(|_, of_device| of_device.batches > 0);
        }
        taken.tenants.retain(|_, of_tenant| !of_tenant.devices.is_empty());
        drop(taken);
        self.shares.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::StreamExt as _;
    use futures_util::stream;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    fn ids(n: u128) -> (TenantId, DeviceId) {
        (TenantId(uuid::Uuid::from_u128(n / 100)), DeviceId(uuid::Uuid::from_u128(n)))
    }

    async fn held(bodies: &Bodies, n: u128) -> Option<Held> {
        let (tenant, device) = ids(n);
        bodies.begin(tenant, device).await
    }

    fn body(parts: usize) -> Body {
        let part = || Ok::<_, std::io::Error>(Bytes::from_static(&[7; 100]));
        Body::from_stream(stream::iter((0..parts).map(move |_| part())))
    }

    #[tokio::test]
    async fn a_device_and_a_tenant_hold_up_at_most_themselves() {
        let bodies = Bodies::new(1_600, 300, SHORT);
        let mut first = held(&bodies, 100).await.unwrap();
        assert!(first.more(300).await && !first.more(1).await, "a device has its share");
        let mut all = vec![first];
        for device in 101..110 {
            let mut one = held(&bodies, device).await.unwrap();
            while one.more(10).await {}
            assert!(one.bytes > 0 || device > 105, "{device} has some");
            all.push(one);
        }
        assert!(bodies.0.lock().bytes <= 800, "a tenant has half at most");
        let mut other = held(&bodies, 200).await.unwrap();
        assert!(other.more(200).await, "and another one its share");
        for _ in 1..BATCHES {
            all.push(held(&bodies, 200).await.unwrap());
        }
        assert!(held(&bodies, 200).await.is_none(), "a device has so many batches at once");
        drop((all, other));
        let taken = bodies.0.lock();
        assert_eq!((taken.bytes, taken.tenants.len()), (0, 0), "who holds nothing is forgotten");
    }

    #[tokio::test]
    async fn room_is_taken_as_bytes_come_and_given_back() {
        let bodies = Bodies::new(4_000, 1_000, SHORT);
        let mut idle = held(&bodies, 1).await.unwrap();
        let pace = Pace { progress: SHORT, ..Pace::default() };
        let nothing = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(idle.read(nothing, 900, pace).await, Err(Broken::Slow));
        assert_eq!(idle.bytes, 0, "what did not come takes nothing");
        let mut whole = held(&bodies, 1).await.unwrap();
        assert_eq!(whole.read(body(9), 900, pace).await.unwrap(), [7; 900]);
        assert_eq!(whole.bytes, 900);
        assert_eq!(idle.read(body(2), 200, pace).await, Err(Broken::NoRoom));
        drop(whole);
        assert_eq!(idle.read(body(2), 300, pace).await, Err(Broken::Off));
        assert_eq!(idle.read(body(2), 150, pace).await, Err(Broken::Off));
    }

    #[tokio::test]
    async fn a_body_may_take_as_long_as_its_length_allows_while_it_goes_on() {
        let pace = Pace::default();
        assert_eq!(pace.whole(3_000_000), Duration::from_secs(120 + 1_500));
        assert_eq!(pace.whole(MAX_BATCH_BYTES), Duration::from_secs(7_200));
        let bodies = Bodies::default();
        let mut held = held(&bodies, 1).await.unwrap();
        // It goes on for ever, a little at a time, and ends all the same.
        let drip = stream::repeat(()).then(async |()| {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok::<_, std::io::Error>(Bytes::from_static(b"x"))
        });
        let pace = Pace { base: SHORT, longest: SHORT, ..pace };
        let drip = Body::from_stream(Box::pin(drip));
        assert_eq!(held.read(drip, 1_000_000, pace).await, Err(Broken::Slow));
    }
}
