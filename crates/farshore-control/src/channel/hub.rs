//! The live sessions of this replica.

use farshore_domain::device::{self, Reachability};
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::time::UnixMs;

/// Which devices are connected here.
#[derive(Debug, Default)]
pub struct Hub {}

impl Hub {
    /// How reachable a device is, and when it was last heard; `stored` is what the database knows.
    #[must_use]
    pub fn presence(
        &self,
        _tenant: TenantId,
        _device: DeviceId,
        stored: Option<UnixMs>,
        now: UnixMs,
    ) -> (Reachability, Option<UnixMs>) {
        (device::reachability(false, stored, 30_000, now), stored)
    }

    /// The device's desired state changed: wake its channel.
    pub fn push_desired(&self, _tenant: TenantId, _device: DeviceId) {}
}
